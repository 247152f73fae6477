"""What the built-in reference does around the network: pixels and anchors, against the official code's."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from effdet_torch.config import get_config
from effdet_torch.geometry.anchors import make_anchors_yxyx
from effdet_torch.processing.profiles import PROFILES
from tests.support.reference import config_hparams
from verify.reference.detector import ReferenceDetector
from verify.reference.official.config_file import read_config_file
from verify.reference.official.hparams import read_hparams

pytest.importorskip("tensorflow")

PROFILE = PROFILES["official-eval"]
VARIANT_AND_SIZE = (
    *("d0_384x640", "d0_512", "d1_640", "d2_768", "d6_1280", "d7x_1536"),
    *("lite0_320", "lite2_448", "lite4_640"),
)


def detector(**values: Any) -> ReferenceDetector:
    return ReferenceDetector(read_hparams(values, variant=values.get("name", "d0")), PROFILE)


@pytest.mark.parametrize("case", VARIANT_AND_SIZE)
def test_anchors_equal_the_official_codes(case: str, shared: Path) -> None:
    variant, size = case.split("_")
    with np.load(shared / "reference" / "golden" / f"{variant}_anchors_{size}.npz") as golden:
        size_hw = tuple(golden["image_size"].tolist())
        found = detector(name=variant, image_size=size_hw, anchor_scale=float(golden["anchor_scale"])).anchors_yxyx()
        assert len(found) == golden["count"]
        np.testing.assert_allclose(found[golden["index"]], golden["boxes_yxyx"], atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    "changes",
    [
        {"image_size": (135, 190), "max_level": 8, "num_scales": 2},
        {"aspect_ratios": (3.0,), "anchor_scale": 2.5, "image_size": (96, 160)},
    ],
)
def test_anchors_equal_the_models(changes: dict[str, Any]) -> None:
    config = get_config("d0", **changes)
    found = ReferenceDetector(config_hparams(config), PROFILE).anchors_yxyx()
    np.testing.assert_allclose(found, make_anchors_yxyx(config).numpy(), atol=1e-4, rtol=0)


def test_a_scale_for_every_level_and_pairs_of_factors(shared: Path) -> None:
    path = shared / "reference" / "sources" / "cases" / "anchor_scale_list" / "config.yaml"
    values = read_config_file(path) | {"aspect_ratios": [[1.0, 1.0], [1.4, 0.7]], "num_scales": 1}
    anchors = detector(**values).anchors_yxyx()
    sizes = anchors[:, 2:] - anchors[:, :2]
    first = np.cumsum([0, *(2 * (128 // 2**level) ** 2 for level in (3, 4, 5, 6))])  # of every level
    for position, level, scale in zip(first, (3, 4, 5, 6, 7), (4, 4, 5, 5, 6), strict=True):
        side = scale * 2**level
        np.testing.assert_allclose(sizes[position : position + 2], [[side, side], [0.7 * side, 1.4 * side]], rtol=1e-6)
    np.testing.assert_allclose(anchors[0], [4 - 16, 4 - 16, 4 + 16, 4 + 16])


def grey(level: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.full((32, 64, 3), level, np.uint8)).save(stream, "PNG")
    return stream.getvalue()


MEAN, STD = np.array([123.675, 116.28, 103.53]), np.array([58.395, 57.12, 57.375])


@pytest.mark.parametrize(
    ("values", "expected", "border"),
    [
        ({}, (200 - MEAN) / STD, 0),
        ({"scale_range": True}, (200 - MEAN) / STD * 2 / 255 - 1, -1),
        ({"scale_range": True, "mean_rgb": 0.0, "stddev_rgb": 1.0}, np.full(3, 200 * 2 / 255 - 1), -1),
        ({"mean_rgb": 127.0, "stddev_rgb": 128.0}, np.full(3, (200 - 127) / 128), 0),
    ],
)
def test_grey_200(values: dict[str, Any], expected: NDArray[Any], border: float) -> None:
    pixels, scale = detector(image_size=128, **values).pixels(grey(200))
    assert (pixels.shape, scale) == ((1, 128, 128, 3), 0.5)
    np.testing.assert_allclose(pixels[0, :64], np.broadcast_to(expected, (64, 128, 3)), atol=1e-6)
    np.testing.assert_array_equal(pixels[0, 64:], np.full((64, 128, 3), border, np.float32))


def test_the_scale_range_case(shared: Path) -> None:
    values = read_config_file(shared / "reference" / "sources" / "cases" / "scale_range" / "config.yaml")
    pixels, _ = detector(**values).pixels(grey(200))
    assert pixels[0, 0, 0, 0] == pytest.approx(-0.98975, abs=1e-5)


def test_pixels_equal_the_official_input(shared: Path) -> None:
    with np.load(shared / "trained_d0_256" / "ref_000000037777.npz") as reference:
        expected, scale = reference["input_nhwc"], reference["image_scale_to_original"]
        encoded = (shared / "coco50" / "val2017" / str(reference["file_name"])).read_bytes()
    pixels, found_scale = detector(image_size=256).pixels(encoded)
    np.testing.assert_allclose(pixels, expected, atol=2e-5)
    assert found_scale == scale[0]
    assert np.abs(detector(image_size=256, mean_rgb=127.0).pixels(encoded)[0] - expected).max() > 0.01
