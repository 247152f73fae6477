"""Preprocessing against the official input and against `tf.image.resize`."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from effdet_torch.config import EfficientDetConfig, get_config
from effdet_torch.inference.images import read_image
from effdet_torch.processing import preprocess as in_torch
from effdet_torch.processing.numpy_preprocess import preprocess

with contextlib.suppress(ImportError):
    importlib.import_module("triton")  # loaded after TensorFlow, its copy of LLVM aborts the process
tf = pytest.importorskip("tensorflow")

# The official input was normalised by one fused operation, ours by a subtraction and a division.
OFFICIAL_ERROR = 2e-5

Canvas = tuple[int, int]
SIZES: list[tuple[Canvas, Canvas]] = [
    ((480, 640), (512, 512)),
    ((640, 427), (512, 512)),
    ((1333, 2000), (384, 640)),
    ((37, 53), (512, 512)),
    ((512, 512), (512, 512)),
    ((639, 639), (512, 512)),
    ((1, 1), (128, 256)),
    ((1, 2), (256, 128)),
    ((3, 700), (512, 512)),
    ((700, 2), (512, 512)),
]
CONFIGS = {f"{size} on {canvas}": (size, get_config("d0", image_size=canvas)) for size, canvas in SIZES} | {
    "lite": ((375, 500), get_config("lite0")),
    "advprop": ((375, 500), get_config("d0", normalization="advprop")),
    "d7x": ((375, 500), get_config("d7x", image_size=(640, 896))),
}


def photograph(size: tuple[int, int]) -> np.ndarray:
    """Smooth structure and noise; (height, width, 3) uint8."""
    random = np.random.default_rng(size[0] * 10_000 + size[1])
    y, x = np.mgrid[: size[0], : size[1]]
    waves = 100 * np.sin(x / 9)[:, :, None] * np.cos(y / 7)[:, :, None] + 128
    return np.clip(waves + random.normal(0, 40, (*size, 3)), 0, 255).astype(np.uint8)


def official_input(image: np.ndarray, config: EfficientDetConfig, antialias: bool = False) -> tuple[np.ndarray, float]:
    """The steps of the official input pipeline, in TensorFlow: (H, W, 3) and the scale to the original."""
    height, width = config.image_size
    size = tf.cast(tf.shape(image)[:2], tf.float32)
    scale = tf.minimum(tf.cast(height, tf.float32) / size[0], tf.cast(width, tf.float32) / size[1])
    new_size = tf.cast(size * scale, tf.int32)
    pixels = tf.cast(image, tf.float32)
    if config.normalization == "mean_std":
        pixels = (pixels - tf.constant(config.mean_rgb)) / tf.constant(config.std_rgb)
    resized = tf.image.resize(pixels, new_size, method="bilinear", antialias=antialias)
    padded = tf.image.pad_to_bounding_box(resized, 0, 0, height, width)
    if config.normalization == "advprop":
        padded = padded * 2.0 / 255.0 - 1.0
    return padded.numpy(), float(1.0 / scale)


def our_input(image: np.ndarray, config: EfficientDetConfig) -> tuple[np.ndarray, float]:
    """The pixels of both of ours, which are the same."""
    batch, scales = preprocess([image], config)
    other, other_scales = in_torch.preprocess([image], config)
    assert np.array_equal(batch, other.numpy())
    assert np.array_equal(scales, other_scales.numpy())
    return batch[0].transpose(1, 2, 0), float(scales[0])


def assert_equal(image: np.ndarray, config: EfficientDetConfig) -> None:
    (found, scale), (expected, expected_scale) = our_input(image, config), official_input(image, config)
    assert scale == expected_scale
    assert np.array_equal(found, expected), image.shape


@pytest.mark.parametrize("case", CONFIGS)
def test_equals_tensorflow(case: str) -> None:
    size, config = CONFIGS[case]
    assert_equal(photograph(size), config)


def test_equals_tensorflow_on_any_size() -> None:
    random = np.random.default_rng(0)
    config = get_config("d0", image_size=(96, 160))
    for height, width in random.integers(4, 400, (40, 2)).tolist():
        assert_equal(random.integers(0, 256, (height, width, 3), dtype=np.uint8), config)


def test_where_tensorflow_fails_one_pixel_is_kept() -> None:
    config = get_config("d0", image_size=(128, 128))
    strip = photograph((1, 300))
    with pytest.raises(tf.errors.InvalidArgumentError, match="must be positive"):
        official_input(strip, config)
    found, scale = our_input(strip, config)
    assert scale == pytest.approx(300 / 128)
    assert found[0].any()
    assert not found[1:].any()


def _resize_first(image: np.ndarray, config: EfficientDetConfig) -> np.ndarray:
    """Mistake: PIL's resize, which smooths before it samples."""
    height, width = config.image_size
    scale = min(height / image.shape[0], width / image.shape[1])
    size = (int(image.shape[1] * scale), int(image.shape[0] * scale))
    small = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR))
    canvas = np.zeros((height, width, 3), np.uint8)
    canvas[: small.shape[0], : small.shape[1]] = small
    return our_input(canvas, config)[0]


MISTAKES: dict[str, Callable[[np.ndarray, EfficientDetConfig], np.ndarray]] = {
    "antialias": lambda image, config: official_input(image, config, antialias=True)[0],
    "bgr": lambda image, config: our_input(image[:, :, ::-1], config)[0],
    "pad before normalisation": _resize_first,
    "lite": lambda image, config: our_input(image, get_config("lite0", image_size=config.image_size))[0],
    "advprop": lambda image, config: our_input(
        image, get_config("d0", image_size=config.image_size, normalization="advprop")
    )[0],
}


def test_equals_the_official_input(shared: Path) -> None:
    image = read_image(shared / "reference" / "images" / "img1.jpg")
    config = get_config("d0")
    with np.load(shared / "reference" / "golden" / "d0_input_img_512.npz") as golden:
        index, value, scale = golden["index"], golden["value"], golden["scale"]
    found, found_scale = our_input(image, config)
    assert found_scale == scale[0]
    np.testing.assert_allclose(found.ravel()[index], value, atol=OFFICIAL_ERROR, rtol=0)
    errors = {name: np.abs(wrong(image, config).ravel()[index] - value).max() for name, wrong in MISTAKES.items()}
    assert min(errors.values()) > 0.1, errors


def test_equals_the_official_input_of_the_trained_model(shared: Path) -> None:
    with np.load(shared / "trained_d0_256" / "ref_000000037777.npz") as reference:
        image, expected, scale = (reference[k] for k in ("uint8_rgb", "input_nhwc", "image_scale_to_original"))
        name = str(reference["file_name"])
    found, found_scale = our_input(image, get_config("d0", image_size=256))
    assert found_scale == scale[0]
    assert np.array_equal(found, expected[0])
    assert np.array_equal(read_image(shared / "coco50" / "val2017" / name), image)
