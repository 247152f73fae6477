"""Exported files against the model and against TensorFlow: what is right passes, and what is wrong is named."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from click.testing import CliRunner

import cli
from converter.conversion import convert_checkpoint, prepare
from converter.locate import open_checkpoint
from effdet_torch.data.sources import DataSource
from effdet_torch.engines.runtimes.openvino import OpenVinoEngine
from effdet_torch.errors import ConfigError, ModelFileError
from effdet_torch.export.export import export_model
from effdet_torch.export.settings import ExportSettings
from effdet_torch.export.writers import openvino_file
from effdet_torch.network.checkpoint import load_model
from support.coco_samples import write_coco
from support.sources import small_config
from verify.detections import matching
from verify.detections.run import CocoSettings
from verify.errors import ParityError
from verify.evaluation import Beside, verify_detections
from verify.exported import verify_exported
from verify.layers.exported import shown_layers
from verify.results.verification import Verification
from verify.seeded import write_seeded_checkpoint
from verify.verification import Settings

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
CONFIG = small_config(image_size=(128, 128), max_level=7, survival_prob=0.8, head_repeats=2)
NODE = "fpn.cell.0.fnode.2"
DETECTIONS = {"nms": "soft", "pixels": "uint8", "batch": 2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a seeded checkpoint in `training/`, the converted model.pth, and model.onnx."""
    folder = tmp_path_factory.mktemp("exported")
    with open_checkpoint(write_seeded_checkpoint(CONFIG, folder / "training")) as source:
        convert_checkpoint(prepare(source, hparams={"survival_prob": 0.8}), folder / "model.pth")
    export(folder, "model.onnx")
    return folder


def export(folder: Path, name: str, format_name: str | None = None, **settings: Any) -> Path:
    """Export once."""
    path = folder / name
    if not path.exists():
        chosen = ExportSettings(**{"image_size": (128, 128), **settings})
        export_model(load_model(folder / "model.pth"), path, chosen, format_name, check=False)
    return path


def export_to_openvino(
    folder: Path, name: str, monkeypatch: pytest.MonkeyPatch, change: Callable[[Any], None] = lambda graph: None
) -> Path:
    """Write an OpenVINO file of model.onnx, with one change to its graph."""
    pytest.importorskip("openvino")
    model = onnx.load(folder / "model.onnx")
    change(model.graph)
    monkeypatch.setattr(openvino_file, "onnx_model", lambda job: model)
    return export(folder, name)


def changed(folder: Path, name: str, change: Callable[[Any], None], source: str = "model.onnx") -> Path:
    """Write an ONNX file with one change to its graph."""
    model = onnx.load(folder / source)
    change(model.graph)
    path = folder / name
    path.write_bytes(model.SerializeToString())
    return path


def first_failure(result: Verification) -> str:
    return min((layer for layer in result.layers if not layer.passed), key=lambda layer: layer.order).torch


@pytest.mark.parametrize("reference", ["model.pth", pytest.param("training/model", id="TensorFlow")])
@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("network.onnx", {}),
        ("detections.onnx", DETECTIONS),
        pytest.param("network.xml", {}, marks=pytest.mark.slow),
        pytest.param("half.onnx", {"precision": "float16"}, marks=pytest.mark.slow),
        pytest.param("network.torchscript", {}, marks=pytest.mark.slow),
    ],
)
def test_a_right_file_passes(
    name: str, settings: dict[str, Any], reference: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not reference.endswith(".pth"):
        pytest.importorskip("tensorflow")
    is_openvino = name.endswith(".xml")
    path = export_to_openvino(folder, name, monkeypatch) if is_openvino else export(folder, name, **settings)
    result = verify_exported(path, folder / reference)
    assert result.passed, [(layer.torch, layer.measures.max_over_rms) for layer in result.failures]
    found = {(layer.torch, layer.level) for layer in result.layers}
    with open_checkpoint(folder / "training" / "model") as source:
        wanted = shown_layers(prepare(source, hparams={"survival_prob": 0.8}).plan)
    predictions = {(f"{head}_net.predict", level) for head in ("class", "box") for level in range(3, 8)}
    assert found == predictions if path.suffix == ".torchscript" else len(found) == len(wanted) > len(predictions)
    assert {layer.torch for layer in result.outputs} == {"class_net.predict", "box_net.predict"}
    assert len(result.outputs) == 10
    worst = max(layer.measures.max_over_rms for layer in result.layers)
    assert worst < (1e-1 if name.startswith("half") else 5e-5)
    assert result.detection is not None
    assert result.detection.parity is not None
    assert result.detection.parity.expected > 0


def scale_weight(graph: Any) -> None:
    weight = next(x for x in graph.initializer if x.name.endswith(f"{NODE}.after_combine.conv.conv_pw.weight"))
    array = onnx.numpy_helper.to_array(weight).copy()
    array[3] *= 1.1
    weight.CopyFrom(onnx.numpy_helper.from_array(array, weight.name))


def swap_padding(graph: Any) -> None:
    conv = [node for node in graph.node if node.op_type == "Conv" and list(pads(node).ints) == [0, 0, 1, 1]][1]
    pads(conv).ints[:] = [1, 1, 0, 0]


def pads(node: Any) -> Any:
    return next((attribute for attribute in node.attribute if attribute.name == "pads"), onnx.AttributeProto())


WRONG = [(scale_weight, NODE), (swap_padding, "backbone.blocks.1.0")]


@pytest.mark.parametrize(("change", "first"), WRONG)
@pytest.mark.parametrize("reference", ["model.pth", pytest.param("training/model", id="TensorFlow")])
def test_the_first_wrong_layer_is_named(
    change: Callable[[Any], None], first: str, reference: str, folder: Path
) -> None:
    if not reference.endswith(".pth"):
        pytest.importorskip("tensorflow")
    result = verify_exported(changed(folder, "wrong.onnx", change), folder / reference)
    assert (result.passed, result.verdict) == (False, "FAIL")
    assert first_failure(result) == first
    (diagnosis,) = result.diagnoses
    assert (diagnosis.mistake, diagnosis.tensor) == ("exported file", None)
    assert diagnosis.explanation.startswith(f"{first} is the first output of the file that differs")


@pytest.mark.parametrize(("change", "first"), [WRONG[0], pytest.param(*WRONG[1], marks=pytest.mark.slow)])
def test_a_wrong_layer_is_named_in_openvino(
    change: Callable[[Any], None], first: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = export_to_openvino(folder, f"{change.__name__}.xml", monkeypatch, change)
    assert first_failure(verify_exported(path, folder / "model.pth")) == first


def test_an_output_that_only_the_whole_file_shows(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The outputs are those of the file as it is, without further outputs."""
    path = export_to_openvino(folder, "network.xml", monkeypatch)
    run = OpenVinoEngine._run

    def wrong(self: OpenVinoEngine, pixels: Any) -> list[Any]:
        outputs = run(self, pixels)
        return [outputs[0] * 1.01, *outputs[1:]]

    monkeypatch.setattr(OpenVinoEngine, "_run", wrong)
    result = verify_exported(path, folder / "model.pth")
    assert [(layer.torch, layer.level) for layer in result.failures] == [("class_net.predict", 3)]


def test_wrong_detections_fail_although_all_layers_agree(folder: Path) -> None:
    def move_boxes(graph: Any) -> None:
        graph.initializer.append(onnx.numpy_helper.from_array(np.array(1.05, np.float32), "factor"))
        node = next(node for node in graph.node if "boxes" in node.output)
        node.output[list(node.output).index("boxes")] = "unmoved"
        graph.node.append(onnx.helper.make_node("Mul", ["unmoved", "factor"], ["boxes"]))

    export(folder, "detections.onnx", **DETECTIONS)
    result = verify_exported(changed(folder, "moved.onnx", move_boxes, "detections.onnx"), folder / "model.pth")
    assert not result.passed
    assert not result.failures
    assert result.detection is not None
    assert not result.detection.passed


def test_no_detections_prove_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = export(folder, "detections.onnx", **DETECTIONS)
    monkeypatch.setattr(matching, "MATCHED_MIN_SCORE", 2.0)  # no detection counts
    with pytest.raises(ParityError, match="nothing would be compared; choose an image with objects"):
        verify_exported(path, folder / "model.pth")
    assert verify_exported(folder / "model.onnx", folder / "model.pth").passed  # its outputs were compared


def test_another_model_is_not_its_reference(folder: Path, tmp_path: Path) -> None:
    with open_checkpoint(write_seeded_checkpoint(CONFIG, tmp_path / "training", seed=1)) as source:
        convert_checkpoint(prepare(source, hparams={"survival_prob": 0.8}), tmp_path / "seed1.pth")
    assert first_failure(verify_exported(folder / "model.onnx", tmp_path / "seed1.pth")) == "backbone.bn1"
    other = write_seeded_checkpoint(replace(CONFIG, num_classes=3), tmp_path / "classes")
    with open_checkpoint(other) as source:
        convert_checkpoint(prepare(source, hparams={"survival_prob": 0.8}), tmp_path / "classes.pth")
    with pytest.raises(
        ParityError, match=r"model.onnx was not exported from .*classes.pth: num_classes 2 there, 3 here; give the"
    ):
        verify_exported(folder / "model.onnx", tmp_path / "classes.pth")
    with pytest.raises(ParityError, match="its num_classes is 3, the model's 2"):
        verify_exported(folder / "model.onnx", other)


def test_a_file_that_shows_no_layers_is_refused(folder: Path) -> None:
    def rename(graph: Any) -> None:
        for node in graph.node:
            for values in (node.input, node.output):
                values[:] = ["renamed" if value == NODE else value for value in values]

    path = changed(folder, "renamed.onnx", rename)
    with pytest.raises(ModelFileError, match=rf"has no inner tensor {NODE}.*Export the model again"):
        verify_exported(path, folder / "model.pth")


@pytest.mark.slow
def test_a_level_that_the_one_before_it_is_already(folder: Path) -> None:
    """At 64 pixels P6 has one pixel, and so has P7: nothing is left to compute."""
    result = verify_exported(export(folder, "small.onnx", image_size=(64, 64)), folder / "model.pth")
    assert result.passed
    resampled = {layer.torch for layer in result.layers if layer.kind == "resample"}
    assert resampled == {"fpn.resample.3"}


def test_a_size_that_the_file_does_not_take(folder: Path) -> None:
    with pytest.raises(ConfigError, match="takes images of 128 x 128 pixels, not 96 x 160"):
        verify_exported(folder / "model.onnx", folder / "model.pth", Settings(image_size=(160, 96)))


# Detections on a data set, and the command.


def test_both_are_evaluated_and_compared(folder: Path, tmp_path: Path) -> None:
    source = DataSource(coco=write_coco(tmp_path / "coco"))
    settings = CocoSettings(workers=0)
    result = verify_detections(folder / "model.onnx", source, settings, Beside(checkpoint=folder / "model.pth"))
    assert result is not None
    assert result.detection is not None
    parity = result.detection.parity
    assert result.verdict == "PASS"
    assert parity is not None
    assert (parity.source, parity.matched_share) == ("model.pth", 1)
    assert parity.expected > 0
    assert parity.ap_difference == pytest.approx(0, abs=1e-6)
    wrong = verify_detections(
        changed(folder, "wrong.onnx", scale_weight), source, settings, Beside(checkpoint=folder / "model.pth")
    )
    assert wrong is not None
    assert wrong.verdict == "FAIL"


def test_what_cannot_be_compared_on_a_data_set(folder: Path, tmp_path: Path) -> None:
    source = DataSource(coco=write_coco(tmp_path / "coco"))
    path, settings = export(folder, "detections.onnx", **DETECTIONS), CocoSettings(workers=0, profile="model")
    (results := tmp_path / "results.json").write_text("[]")
    with pytest.raises(ConfigError, match="leave --reference-results out"):
        verify_detections(path, source, settings, Beside(results, folder / "model.pth"))
    with pytest.raises(ConfigError, match="makes its detections with the profile serving"):
        verify_detections(path, source, replace(settings, profile="hard"), Beside(checkpoint=folder / "model.pth"))
    pytest.importorskip("tensorflow")
    with pytest.raises(ParityError, match="returns detections, and the stages before them cannot be compared"):
        verify_detections(path, source, replace(settings, limit=1), Beside(checkpoint=folder / "training" / "model"))


def test_the_command(folder: Path, tmp_path: Path) -> None:
    words = ["--reference", str(folder / "model.pth"), "--report-dir", str(tmp_path / "report")]
    done = CliRunner().invoke(cli.verify, [str(changed(folder, "wrong.onnx", scale_weight)), *words])
    assert done.exit_code == 1
    assert done.stdout.startswith("FAIL")
    assert "The exported file does not compute the outputs of its reference." in done.stdout
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    assert report["diagnoses"][0]["mistake"] == "exported file"
    assert {(layer["mode"], layer["dtype"]) for layer in report["layers"]} == {("exported", "float32")}
    schema = json.loads((Path(__file__).parents[2] / "docs" / "verification_report.schema.json").read_text())
    jsonschema.validate(report, schema)
    done = CliRunner().invoke(cli.verify, [str(folder / "model.onnx"), *words])
    assert (done.exit_code, done.stdout.partition(" ")[0]) == (0, "PASS")
    done = CliRunner().invoke(cli.verify, [str(folder / "model.onnx"), *words, "--dtype", "float64"])
    assert done.exit_code == 2
    assert "--dtype does not apply to an exported file" in done.stderr
