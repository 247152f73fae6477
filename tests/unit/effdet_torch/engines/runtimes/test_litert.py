"""`.tflite` files of ours run; those from elsewhere, and damaged ones, are refused by name."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from effdet_torch import Predictor
from effdet_torch.engines.document import plain_profile
from effdet_torch.engines.runtimes.litert import LiteRtEngine
from effdet_torch.engines.table import is_exported, open_engine
from effdet_torch.errors import EffdetError, ModelFileError
from effdet_torch.processing.cpu import CpuProcessing
from effdet_torch.processing.profiles import PROFILES
from support.sources import small_config
from support.tflite_exports import write_export
from support.tflite_files import pack, unpack
from support.tflite_samples import converted, outputs

CONFIG = small_config(image_size=(64, 96), num_classes=3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same network with and without detections, and that with detections without its document."""
    folder = tmp_path_factory.mktemp("tflite")
    write_export(folder / "network.tflite", CONFIG)
    model = unpack(write_export(folder / "detections.tflite", CONFIG, detects=True).read_bytes())
    model.metadata = []
    (folder / "foreign.tflite").write_bytes(pack(model))
    return folder


def images(batch: int = 1, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((batch, 3, 64, 96), np.float32)


def test_a_network_gives_what_the_model_gives(folder: Path, tmp_path: Path) -> None:
    engine, pixels = open_engine(folder / "network.tflite"), images(2)
    assert isinstance(engine, LiteRtEngine)
    found = engine.run(pixels)
    wanted = outputs(converted(folder / "network.tflite", tmp_path), pixels.transpose(0, 2, 3, 1))
    exact = [*wanted.class_logits.values(), *wanted.box_deltas.values()]
    for output, expected in zip(found, exact, strict=True):
        assert output.shape == expected.transpose(0, 3, 1, 2).shape
        np.testing.assert_allclose(output, expected.transpose(0, 3, 1, 2), atol=1e-4 * np.abs(expected).max())
    assert not np.allclose(found[0][0], found[0][1], atol=1e-3)  # negative control: the images differ


def test_detections_are_those_of_the_raw_outputs(folder: Path) -> None:
    """Boxes in pixels as (xmin, ymin, xmax, ymax), classes from 1, as `postprocess` makes them."""
    raw, file = open_engine(folder / "network.tflite"), open_engine(folder / "detections.tflite")
    assert file.profile is not None
    for seed in range(3):
        logits, deltas = raw(images(seed=seed))
        (wanted,) = CpuProcessing(CONFIG).detections(logits, deltas, np.ones(1, np.float32), file.profile)
        boxes, scores, classes, count = file.run(images(seed=seed))
        assert int(count[0]) == len(wanted.scores) > 0
        np.testing.assert_allclose(scores[0, : count[0]], wanted.scores, atol=1e-5)
        np.testing.assert_allclose(boxes[0, : count[0]], wanted.boxes_xyxy, atol=1e-2)
        assert np.array_equal(classes[0, : count[0]], wanted.classes)


def test_the_detections_of_another_image_are_not_left_behind(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The operation leaves them in its outputs: `findings/tflite_stale_detections.sh`."""
    engine = LiteRtEngine(folder / "detections.tflite")
    full = [output.copy() for output in engine.run(images())]
    assert full[1].min() > 0

    class Runner:
        def __call__(self, **_: object) -> dict[str, NDArray[np.float32]]:
            boxes, scores, classes, _ = (array.astype(np.float32) for array in full)
            boxes[:, 7:], classes[:, 7:] = 3e38, np.nan  # which no arithmetic may touch
            found = (np.float32([7]), scores, np.float32(classes - 1), boxes / 96)
            return {f"output_{number}": array for number, array in enumerate(found)}

    monkeypatch.setattr(engine, "_runner", Runner())
    boxes, scores, classes, count = engine.run(images())
    assert count.tolist() == [7]
    assert scores[0, :7].all()
    assert not scores[0, 7:].any()
    assert not boxes[0, 7:].any()
    assert not classes[0, 7:].any()


def test_the_runtime_says_nothing(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    open_engine(folder / "network.tflite").run(images())
    assert capfd.readouterr() == ("", "")


def test_the_predictor_takes_it(folder: Path) -> None:
    photo = np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8)
    found = Predictor(folder / "detections.tflite", score_threshold=0)(photo)[0]
    raw = Predictor(folder / "network.tflite", profile="tflite", score_threshold=0)(photo)[0]
    assert len(found) == len(raw) > 0
    best = slice(0, 50)  # further down, scores are equal but for roundings
    np.testing.assert_allclose(found.scores, raw.scores, atol=1e-5)
    np.testing.assert_allclose(found.boxes_xyxy[best], raw.boxes_xyxy[best], atol=1e-2)


def test_another_tool_s_file_is_a_source(folder: Path) -> None:
    assert is_exported(folder / "network.tflite")
    assert not is_exported(folder / "foreign.tflite")
    with pytest.raises(
        ModelFileError, match=r"without the metadata of effdet-export: .* Convert it first \(effdet-convert .*foreign"
    ):
        Predictor(folder / "foreign.tflite")
    with pytest.raises(ModelFileError, match="was not written by effdet-export"):
        LiteRtEngine(folder / "foreign.tflite")


def test_a_document_of_another_file_is_refused(tmp_path: Path) -> None:
    other = write_export(
        tmp_path / "other.tflite", CONFIG, outputs="detections", profile=plain_profile(PROFILES["tflite"])
    )
    with pytest.raises(ModelFileError, match=r"the outputs of .*other\.tflite are output_0, output_1"):
        LiteRtEngine(other)
    more = write_export(tmp_path / "more.tflite", CONFIG, image_size=(64, 64))
    with pytest.raises(ModelFileError, match=r"more\.tflite"):
        open_engine(more).run(images()[..., :64])


@pytest.mark.parametrize("kept", [0, 40, 4000, -20_000])
def test_damaged_files_are_refused_in_one_line(folder: Path, tmp_path: Path, kept: int) -> None:
    path = tmp_path / "a.tflite"
    path.write_bytes((folder / "network.tflite").read_bytes()[:kept])
    with pytest.raises(ModelFileError) as caught:
        LiteRtEngine(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_a_missing_runtime_are_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelFileError, match=r"none\.tflite: No such file or directory; check its name and folder\."):
        LiteRtEngine(folder / "none.tflite")
    monkeypatch.setitem(sys.modules, "ai_edge_litert", None)
    with pytest.raises(EffdetError, match=r"needs ai-edge-litert, .* pip install '\.\[litert\]'"):
        LiteRtEngine(folder / "network.tflite")
