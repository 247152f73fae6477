"""One export to ONNX, and everything that surrounds the writing: the check, the document, failures."""

from __future__ import annotations

import ast
import copy
import errno
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from effdet_torch import Predictor
from effdet_torch.engines.file_engine import FileEngine
from effdet_torch.engines.runtimes.onnx_runtime import EXTERNAL_DATA, OnnxRuntimeEngine
from effdet_torch.errors import ConfigError, EffdetError, OutputError, UsageError
from effdet_torch.export import export
from effdet_torch.export.check import Checked, check_file
from effdet_torch.export.comparison.detections import box_error
from effdet_torch.export.comparison.outputs import error_of_rms
from effdet_torch.export.export import export_model
from effdet_torch.export.format_table import FORMATS
from effdet_torch.export.settings import ExportSettings
from effdet_torch.export.writers.program import Job, Written
from effdet_torch.network.model import EfficientDet
from support.exports import SIZE, export_sample
from support.quick import mostly_slow

IMAGE = np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8)


@pytest.fixture(scope="module")
def model() -> EfficientDet:
    model = export_sample()
    model.metadata = {"source": {"name": "mine"}, "assumed": {}}
    return model


@pytest.fixture(scope="module")
def network(model: EfficientDet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("export") / "network.onnx"
    done = export_model(model, path, ExportSettings(pixels="uint8"))
    assert done.files == [path]
    assert done.checked is not None
    assert done.checked.error < 1e-4
    assert re.fullmatch(
        r"ONNX Runtime \S+: largest error \S+ of the rms of (class|box)_\d, limit 1e-03", str(done.checked)
    )
    return path


@pytest.fixture(scope="module")
def engine(network: Path) -> FileEngine:
    return OnnxRuntimeEngine(network)


def test_a_file_says_what_it_is(engine: FileEngine, model: EfficientDet) -> None:
    assert (engine.config, engine.interface.pixels) == (model.config, "uint8")
    assert engine.metadata["source"] == {"name": "mine"}
    assert engine.metadata["export"]["with"].keys() >= {"torch", "onnx", "onnxscript"}
    assert engine.metadata["anchors"]["levels"] == [3, 4, 5, 6, 7]


def changed(model: EfficientDet, name: str, factor: float) -> EfficientDet:
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.get_parameter(name).mul_(factor)
    return other


@pytest.mark.parametrize(
    "name", ["backbone.blocks.3.0.conv_dw.weight", "fpn.cell.0.fnode.2.after_combine.conv.conv_pw.weight"]
)
def test_a_wrong_weight_is_found(engine: FileEngine, model: EfficientDet, name: str) -> None:
    check_file(engine, changed(model, name, 1.0))
    with pytest.raises(EffdetError, match=r"the exported file is wrong: run by ONNX Runtime .* differs by"):
        check_file(engine, changed(model, name, 1.05))


def test_an_error_that_is_not_a_number_is_infinite() -> None:
    ones = np.ones((1, 2), np.float32)
    assert error_of_rms(ones * np.nan, ones) == float("inf")
    assert error_of_rms(np.ones((1, 3), np.float32), ones) == float("inf")
    assert error_of_rms(ones * 1.5, ones) == 0.5


def detections() -> tuple[list[np.ndarray[Any, Any]], np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Ten detections, and all boxes (1, 12, 4) and scores (1, 12, 3) that they could have come from."""
    boxes = np.arange(48, dtype=np.float32).reshape(1, 12, 4) * 10
    scores = np.full((1, 12, 3), 0.01, np.float32)
    scores[0, :, 1] = np.linspace(0.9, 0.1, 12)
    return [boxes[:, :10], scores[:, :10, 1], np.full((1, 10), 2), np.array([10])], boxes, scores


@pytest.mark.parametrize(("output", "value"), [(0, 999.0), (0, np.nan), (1, 0.95), (2, 1), (2, 0), (2, 4)], ids=str)
def test_a_wrong_detection_is_found(output: int, value: float) -> None:
    """Another box, more than its score, another class or none of the model's."""
    found, boxes, scores = detections()
    found = [array.copy() for array in found]
    assert box_error(found, boxes, scores, 100, 0.01) == 0
    found[output][0, 3] = value
    assert box_error(found, boxes, scores, 100, 0.01) > 0.1


def test_two_detections_of_one_score_may_change_places() -> None:
    found, boxes, scores = detections()
    found = [array.copy() for array in found]
    found[0][0, [3, 4]] = found[0][0, [4, 3]]
    assert box_error(found, boxes, scores, 100, 0.1) == 0
    assert box_error(found, boxes, scores, 100, 0.01) > 0.1  # their scores are not equal


def test_inner_outputs_are_found_by_the_name_of_their_module(network: Path) -> None:
    """What a layer-by-layer comparison needs: the last node within a module gives its output."""
    scopes = {}
    for node in onnx.load(network).graph.node:
        for prop in node.metadata_props:
            assert prop.key == "pkg.torch.onnx.name_scopes"
            for scope in ast.literal_eval(prop.value)[:-1]:
                scopes[scope.removeprefix("model.")] = node.output[0]
    names = ["backbone.bn1", "backbone.blocks.2.1", "fpn.resample.3", "fpn.cell.0.fnode.3", "class_net.bn_rep.0.4"]
    assert set(names) <= scopes.keys()
    assert len({scopes[name] for name in names}) == len(names)


def test_nothing_of_this_machine_is_in_the_file(network: Path) -> None:
    content = network.read_bytes()
    assert b"site-packages" not in content
    assert str(Path(__file__).parents[4]).encode() not in content
    assert EXTERNAL_DATA.search(content) is None


def test_the_predictor_runs_it_like_the_model(network: Path, model: EfficientDet) -> None:
    found, expected = Predictor(network, score_threshold=0)(IMAGE)[0], Predictor(model, score_threshold=0)(IMAGE)[0]
    assert len(found) == len(expected) > 10
    np.testing.assert_allclose(found.scores, expected.scores, atol=0.02)  # whole pixel values in between


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"image_size": (256, 256)}, ConfigError, r"network\.onnx takes images of 192 x 128 pixels, not 256 x 256"),
        ({"device": "cuda"}, UsageError, r"network\.onnx runs on the CPU, .*; leave out device \(--device\)"),
        (
            {"precision": "float16"},
            UsageError,
            r"network\.onnx runs on the CPU, in the precision of effdet-export --precision; leave out precision",
        ),
        ({"backend": "openvino"}, UsageError, r"network\.onnx is exported already"),
    ],
)
def test_what_a_file_does_not_take(network: Path, options: dict[str, Any], error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        Predictor(network, **options)
    Predictor(network, image_size=SIZE, device="cpu", check_values=True)


def replaced(monkeypatch: pytest.MonkeyPatch, write: Callable[[Job, Path], Written]) -> None:
    """Let another function write the files; what is read back is checked all the same."""
    monkeypatch.setattr(export, "FORMATS", {"onnx": replace(FORMATS["onnx"], write=write)})


def test_a_wrong_file_is_not_kept(
    model: EfficientDet, network: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(_: Job, path: Path) -> Written:
        path.write_bytes(network.read_bytes())
        return [path]

    replaced(monkeypatch, write)
    out = tmp_path / "out.onnx"
    out.write_text("what was there")
    with pytest.raises(EffdetError, match="the exported file is wrong"):
        export_model(changed(model, "backbone.conv_stem.weight", 1.1), out)
    assert out.read_text() == "what was there"
    assert export_model(changed(model, "backbone.conv_stem.weight", 1.1), out, check=False).checked is None
    assert out.read_bytes() == network.read_bytes()
    assert list(tmp_path.iterdir()) == [out]


def test_a_failed_exporter_leaves_nothing(model: EfficientDet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(_: Job, path: Path) -> Written:
        path.write_bytes(b"half of it")
        raise EffdetError("it failed")

    replaced(monkeypatch, write)
    with pytest.raises(EffdetError, match="it failed"):
        export_model(model, tmp_path / "out.onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", mostly_slow((".onnx", ".pt2", ".torchscript"), (".pt2",)))
def test_a_full_disk_is_named(
    model: EfficientDet, suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    out = tmp_path / f"out{suffix}"
    with pytest.raises(OutputError, match=rf"out{suffix} cannot be written: No space left .*, in .* Set TMPDIR"):
        export_model(model, out, check=False)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda model: model.train(), "float32 on cpu, training mode; expected float32 on cpu, eval mode"),
        (lambda model: model.class_net.train(), "eval mode and training mode; expected"),
        (lambda model: model.half(), "the model is in float16 on cpu, eval mode"),
    ],
)
def test_a_model_in_another_state_is_refused(
    model: EfficientDet, change: Callable[[EfficientDet], Any], said: str, tmp_path: Path
) -> None:
    other = copy.deepcopy(model)
    change(other)
    before = {name: value.clone() for name, value in other.state_dict().items()}
    with pytest.raises(UsageError, match=said):
        export_model(other, tmp_path / "out.onnx")
    assert all(torch.equal(value, before[name]) for name, value in other.state_dict().items())


def test_what_is_not_finite_cannot_be_checked(engine: FileEngine, model: EfficientDet) -> None:
    with pytest.raises(EffdetError, match="MODEL itself returns NaN or infinity"):
        check_file(engine, changed(model, "backbone.conv_stem.weight", float("nan")))


def test_a_check_without_detections_says_so() -> None:
    """Nothing was compared then, which must not look like a perfect match."""
    assert "no box was compared" in str(Checked("ONNX Runtime", 0.0, 1e-3, "scores", 0))
    for count in (None, 3):
        assert str(Checked("ONNX Runtime", 0.0, 1e-3, "scores", count)).endswith("limit 1e-03")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"nms": "gentle"}, "nms is 'gentle'; expected one of none, soft, hard"),
        ({"batch": "2"}, "batch is '2'; expected 1 to 999, or None for any"),
        ({"image_size": "64"}, r"image_size is '64'; expected \(height, width\)"),
        ({"opset": 17}, "opset is 17; expected 18 to 23"),
        ({"bach": 2}, "unknown option 'bach'; expected one of nms, pixels, batch"),
        ({"settings": {"nms": "soft"}}, "settings is of type dict; expected ExportSettings"),
        ({"model": "d0.pth"}, "model is of type str; expected an EfficientDet, which load_model returns"),
        ({"out": b"out.onnx"}, "out is of type bytes; expected the path of the new file"),
        ({"format_name": "tflite"}, "unknown format 'tflite'"),
        ({"label_map": {1: 5}}, "the name of category 1 in label_map is of type int; expected {category id: name}"),
        ({"label_map": {1: None}}, "the name of category 1 in label_map is of type NoneType"),
        ({"label_map": "labels.txt"}, "label_map is of type str; expected {category id: name}"),
        ({"label_map": {"1": "cat"}}, "the category '1' of label_map is of type str"),
        ({"label_map": {7: "cat"}}, "label_map names category 7; expected 1 to 3"),
        ({"label_map": {0: "cat"}}, "label_map names category 0; expected 1 to 3"),
        ({"label_map": {1: "\ud800"}}, r"the name of category 1 in label_map is '\\ud800'; expected Unicode text"),
        ({"out": "out.xml", "opset": 18}, "opset is for .onnx files, and out.xml is not one"),
    ],
    ids=str,
)
def test_a_mistake_in_the_call_is_explained(model: EfficientDet, options: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        export_model(**{"model": model, "out": "out.onnx", **options})


def test_options_and_a_path_as_text_are_taken(
    model: EfficientDet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(job: Job, path: Path) -> Written:
        path.write_text(str(job.opset))
        return [path]

    replaced(monkeypatch, write)
    settings = ExportSettings(batch=3, opset=19)
    done = export_model(model, str(tmp_path / "out.onnx"), settings, check=False, nms="soft", batch=2)
    assert (done.document.interface.outputs, done.document.interface.batch) == ("detections", 2)
    assert (tmp_path / "out.onnx").read_text() == "19"


@pytest.mark.slow
def test_tensorrt_gets_its_own_operator_and_no_check(model: EfficientDet, tmp_path: Path) -> None:
    done = export_model(model, tmp_path / "out.onnx", ExportSettings(nms="hard", batch=None), "tensorrt")
    assert (done.checked, done.cell.status) == (None, "experimental")
    (node,) = (node for node in onnx.load(done.files[0]).graph.node if node.domain == "TRT")
    settings = {item.name: onnx.helper.get_attribute_value(item) for item in node.attribute}
    assert (node.op_type, settings["iou_threshold"], settings["max_output_boxes"]) == ("EfficientNMS_TRT", 0.5, 100)
