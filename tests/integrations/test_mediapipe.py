"""Our `.tflite` files in MediaPipe's ObjectDetector: its own reading of the metadata gives our boxes and names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from effdet_torch import Predictor, create_model
from effdet_torch.export.export import export_model
from support.networks import alive

pytestmark = [pytest.mark.guest, pytest.mark.filterwarnings("default")]
NAMES = ("cat", "blue whale", "bird")
SIDE = 128
FILES = {"float": {}, "half": {"precision": "float16"}, "int8": {"precision": "int8"}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of one network, calibrated on noise, on which the test runs."""
    pytest.importorskip("mediapipe")
    folder = tmp_path_factory.mktemp("mediapipe")
    model = alive(create_model("lite0", num_classes=3, image_size=SIDE, label_map=dict(enumerate(NAMES, 1))))
    with torch.no_grad():
        model.box_net.predict.conv_pw.weight.mul_(0.2)  # boxes near their anchors, so that some lie inside the image
    noise = [pixels(seed)[None].transpose(0, 3, 1, 2).astype(np.float32) / 128 - 127 / 128 for seed in range(4)]
    for name, settings in FILES.items():
        calibration: Any = noise if name == "int8" else ()
        export_model(model, folder / f"{name}.tflite", check=False, calibration=calibration, **settings)
    return folder


def pixels(seed: int) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE, 3), np.uint8)


def detected(path: Path, image: NDArray[np.uint8]) -> list[tuple[str, float, list[float]]]:
    """Return the (name, score, [x, y, width, height]) that MediaPipe finds."""
    import mediapipe
    from mediapipe.tasks import python as tasks
    from mediapipe.tasks.python import vision

    options = vision.ObjectDetectorOptions(
        base_options=tasks.BaseOptions(model_asset_path=str(path)), max_results=20, score_threshold=-1
    )
    with vision.ObjectDetector.create_from_options(options) as detector:
        found = detector.detect(mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=image)).detections
    boxes = [
        (row.bounding_box.origin_x, row.bounding_box.origin_y, row.bounding_box.width, row.bounding_box.height)
        for row in found
    ]
    return [
        (row.categories[0].category_name, row.categories[0].score, list(box))
        for row, box in zip(found, boxes, strict=True)
    ]


@pytest.mark.parametrize("name", FILES)
def test_mediapipe_finds_what_the_predictor_finds(folder: Path, name: str) -> None:
    path, image = folder / f"{name}.tflite", pixels(0)
    found, wanted = detected(path, image), Predictor(path, score_threshold=0)(image)[0]
    inside = 0
    for (label, score, box), expected_label, expected_score, (left, top, right, bottom) in zip(
        found, wanted.names, wanted.scores, wanted.boxes_xyxy, strict=False
    ):
        assert label == expected_label
        assert score == pytest.approx(expected_score, abs=1e-5)
        if min(left, top) >= 0 and max(right, bottom) <= SIDE:  # of others, MediaPipe moves corners into the image
            assert box == pytest.approx([left, top, right - left, bottom - top], abs=1.01)
            inside += 1
    assert inside
    assert len({label for label, _, _ in found}) > 1
    assert detected(path, pixels(1)) != found  # negative control


def test_without_metadata_it_is_refused(folder: Path, tmp_path: Path) -> None:
    """Negative control: it is the metadata that MediaPipe goes by."""
    from support.tflite_files import pack, unpack  # late: other environments of guests have no ai-edge-litert

    model = unpack((folder / "float.tflite").read_bytes())
    model.metadata = [entry for entry in model.metadata if entry.name != b"TFLITE_METADATA"]
    (tmp_path / "bare.tflite").write_bytes(pack(model))
    with pytest.raises(ValueError, match="require TFLite Model Metadata"):
        detected(tmp_path / "bare.tflite", pixels(0))
