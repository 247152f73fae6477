"""EfficientDets of the TF Object Detection API: its checkpoints give its outputs, boxes and detections.

Oracle: `../shared/reference/tfod`, which the API's own code wrote, with outputs for images of 256 x 256 pixels.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from converter.conversion import convert_checkpoint, prepare
from converter.locate import open_checkpoint
from effdet_torch import load_model
from effdet_torch.geometry.anchors import anchors_yxyx
from effdet_torch.network.model import EfficientDet
from effdet_torch.processing.cpu import CpuProcessing
from effdet_torch.processing.gpu import GpuProcessing
from effdet_torch.processing.numpy_postprocess import Detections
from effdet_torch.processing.postprocess import flatten_levels
from effdet_torch.processing.profiles import PROFILES, own_profile
from support.golden import error_over_rms
from verify.reference.base import import_tensorflow
from verify.results.claim import claim_of
from verify.verification import Settings, verify_model

Array = NDArray[Any]
SIZE = 256
CODER = np.array([10, 10, 5, 5], np.float32)
NETWORK, PIXELS, ANCHORS, BOXES, SCORES = 1e-5, 1e-5, 1e-6, 1e-4, 1e-5  # roundings of float32, in other orders
WRONG = 1e-2  # above it, a result is of another network


@pytest.fixture(scope="module", params=["d0", "d1"])
def variant(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def folder(shared: Path) -> Callable[[str], Path]:
    def of(variant: str) -> Path:
        path = shared / "reference" / "tfod" / variant
        if not path.is_dir():
            pytest.skip("no checkpoints of the Object Detection API (../shared/reference/tfod)")
        return path

    return of


@pytest.fixture(scope="module")
def file(folder: Callable[[str], Path], variant: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return converted(folder(variant), tmp_path_factory.mktemp("converted") / f"{variant}.pth")


@pytest.fixture(scope="module")
def model(file: Path) -> EfficientDet:
    return load_model(file)


@pytest.fixture(scope="module")
def golden(folder: Callable[[str], Path], variant: str) -> dict[str, Array]:
    with np.load(folder(variant) / "golden_256.npz") as arrays:
        return dict(arrays)


def converted(source: Path, out: Path) -> Path:
    with open_checkpoint(source) as opened:
        convert_checkpoint(prepare(opened, hparams={"image_size": SIZE}), out)
    return out


def outputs(model: EfficientDet, golden: dict[str, Array]) -> tuple[Array, Array]:
    """Class logits (A, classes) and box deltas (A, 4) on the API's own input, in the model's order of anchors."""
    with torch.inference_mode():
        logits, deltas = model(torch.tensor(golden["preprocessed"]).permute(0, 3, 1, 2))
    return flatten_levels(logits, model.config.num_classes)[0].numpy(), flatten_levels(deltas, 4)[0].numpy()


def in_api_order(values: Array) -> Array:
    """Bring values of anchors, by octave and then aspect ratio, into the API's order."""
    return values.reshape(-1, 3, 3, values.shape[-1]).swapaxes(1, 2).reshape(values.shape)


def test_the_network_gives_the_outputs_of_the_api(model: EfficientDet, golden: dict[str, Array]) -> None:
    logits, deltas = outputs(model, golden)
    assert error_over_rms(in_api_order(deltas) * CODER, golden["box_encodings"]) <= NETWORK
    assert error_over_rms(in_api_order(logits)[golden["class_rows"]], golden["class_logits"]) <= NETWORK
    # Negative controls: as google/automl orders anchors, and as it scales boxes.
    assert error_over_rms(deltas * CODER, golden["box_encodings"]) > WRONG
    assert error_over_rms(in_api_order(deltas), golden["box_encodings"]) > WRONG


def test_the_anchors_are_those_of_the_api(model: EfficientDet, golden: dict[str, Array]) -> None:
    for config, is_same in ((model.config, True), (replace(model.config, anchor_scale=5.0), False)):
        error = np.abs(in_api_order(anchors_yxyx(config)) / SIZE - golden["anchors_yxyx_normalized"]).max()
        assert (error <= ANCHORS) == is_same


def test_blocks_at_the_ends_of_stages_feed_another_network(folder: Callable[[str], Path], tmp_path: Path) -> None:
    model = load_model(converted(folder("d1"), tmp_path / "d1.pth"))
    assert model.config.taps == ((2, 1), (4, 2), (6, 0))
    other = EfficientDet(replace(model.config, taps=((2, 2), (4, 3), (6, 0)))).eval()
    other.load_state_dict(model.state_dict())
    with np.load(folder("d1") / "golden_256.npz") as golden:
        _, deltas = outputs(other, dict(golden))
        assert error_over_rms(in_api_order(deltas) * CODER, golden["box_encodings"]) > WRONG


@pytest.mark.parametrize("processing", [CpuProcessing, lambda config: GpuProcessing(config, "cpu")])
def test_pixels_and_detections_are_those_of_the_api(
    processing: Callable[[Any], Any], model: EfficientDet, golden: dict[str, Array]
) -> None:
    surrounding = processing(model.config)
    pixels, scales = surrounding.prepare([golden["image"][0]])
    assert np.abs(np.asarray(pixels)[0].transpose(1, 2, 0) - golden["preprocessed"][0]).max() <= PIXELS
    with torch.inference_mode():
        heads = model(torch.as_tensor(pixels))
    (found,) = surrounding.detections(*heads, scales, own_profile(model.config))
    assert differences(found, golden) <= (BOXES, SCORES, 0)


@pytest.mark.parametrize(
    "change",
    [{"to_image": False}, {"iou_threshold": 0.6}, {"per_class": False, "candidates": "best_class"}],
)
def test_other_profiles_detect_otherwise(change: dict[str, Any], model: EfficientDet, golden: dict[str, Array]) -> None:
    surrounding = CpuProcessing(model.config)
    pixels, scales = surrounding.prepare([golden["image"][0]])
    with torch.inference_mode():
        heads = model(torch.as_tensor(pixels))
    (found,) = surrounding.detections(*heads, scales, replace(own_profile(model.config), **change))
    assert differences(found, golden)[0] > WRONG


def differences(found: Detections, golden: dict[str, Array]) -> tuple[float, float, int]:
    """Boxes (as parts of the image), scores, and how many classes differ."""
    height, width = golden["image"].shape[1:3]
    boxes = found.boxes_xyxy[:, [1, 0, 3, 2]] / np.array([height, width, height, width])
    count = int(golden["num_detections"][0])
    assert len(boxes) == count
    classes = found.classes - 1 != golden["detection_classes"][0, :count]
    return (
        float(np.abs(boxes - golden["detection_boxes"][0, :count]).max()),
        float(np.abs(found.scores - golden["detection_scores"][0, :count]).max()),
        int(classes.sum()),
    )


def test_the_own_profile_is_the_published_one(model: EfficientDet) -> None:
    assert own_profile(model.config) == PROFILES["object-detection-api"]


def test_pixels_of_half_pixel_centres_are_others(model: EfficientDet, golden: dict[str, Array]) -> None:
    config = replace(model.config, resize="half_pixel")
    pixels, scales = CpuProcessing(config).prepare([golden["image"][0]])
    assert np.abs(pixels[0].transpose(1, 2, 0) - golden["preprocessed"][0]).max() > WRONG
    assert scales.shape == (1,)


@pytest.mark.parametrize("size", [(200, 300), (301, 200), (256, 256), (37, 501)])
def test_pixels_are_those_of_tensorflow_1(size: tuple[int, int], model: EfficientDet) -> None:
    tf = import_tensorflow()
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    normalised = (image.astype(np.float32) - np.float32(model.config.mean_rgb)) / np.float32(model.config.std_rgb)
    expected = tf.compat.v1.image.resize_images(normalised, (SIZE, SIZE), preserve_aspect_ratio=True).numpy()
    pixels, scales = CpuProcessing(model.config).prepare([image])
    height, width = expected.shape[:2]
    assert scales[0].tolist() == [np.float32(size[1] / width), np.float32(size[0] / height), width, height]
    assert np.abs(pixels[0, :, :height, :width].transpose(1, 2, 0) - expected).max() <= PIXELS
    assert not pixels[0, :, height:].any()
    assert not pixels[0, :, :, width:].any()


def test_every_layer_is_proved(file: Path, folder: Callable[[str], Path], variant: str) -> None:
    settings = Settings(image_size=(129, 129), dtypes=("float64",), modes=("isolated", "cumulative"))
    with open_checkpoint(folder(variant)) as source:
        result = verify_model(file, source, settings)
    assert not result.failures
    assert result.audit is not None
    assert result.audit.passed
    claim = claim_of(result.model["metadata"])
    assert claim.kind == "config"
    assert claim.text.startswith("pipeline.config, and settings stated by --hparams")


def test_the_box_coder_of_the_pipeline_counts(folder: Callable[[str], Path], tmp_path: Path) -> None:
    source, usual = tmp_path / "source", folder("d0")
    shutil.copytree(usual, source, ignore=shutil.ignore_patterns("*.npz", "*.txt"))
    pipeline = source / "pipeline.config"
    pipeline.write_text(pipeline.read_text().replace("y_scale: 10.0", "y_scale: 7.0"))
    file = converted(source, tmp_path / "d0.pth")
    with np.load(usual / "golden_256.npz") as golden:
        _, deltas = outputs(load_model(file), dict(golden))
        expected = golden["box_encodings"] / np.array([7, 10, 5, 5], np.float32)
    assert error_over_rms(in_api_order(deltas), expected) <= NETWORK
    settings = Settings(image_size=(129, 129), dtypes=("float64",), modes=("isolated",))
    for checkpoint, fails in ((source, False), (usual, True)):  # the reference reads the coder, too
        with open_checkpoint(checkpoint) as opened:
            assert bool(verify_model(file, opened, settings).failures) == fails


def test_a_wrong_box_head_is_explained(folder: Callable[[str], Path], tmp_path: Path) -> None:
    file = converted(folder("d0"), tmp_path / "d0.pth")
    content = torch.load(file, weights_only=True)
    content["state_dict"]["box_net.predict.conv_pw.weight"] *= 10  # the box coder, forgotten
    torch.save(content, file)
    with open_checkpoint(folder("d0")) as source:
        result = verify_model(file, source, Settings(image_size=(129, 129), dtypes=("float64",), modes=("isolated",)))
    (diagnosis,) = result.diagnoses
    assert "10 times what it should be" in str(diagnosis)
    assert "mappings/object_detection_api.yaml" in str(diagnosis)
