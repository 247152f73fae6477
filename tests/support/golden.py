"""Official results beside the project: the golden files and the error measure of every numeric comparison."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from effdet_torch.config import EfficientDetConfig, get_config
from verify.reference.base import HeadOutputs, import_tensorflow


def error_over_rms(found: NDArray[Any], expected: NDArray[Any]) -> float:
    """Return max |found - expected| / rms(expected); infinite where a value is not finite."""
    assert found.shape == expected.shape, f"shape {found.shape}, expected {expected.shape}"
    difference = np.abs(found.astype(np.float64) - expected).max()
    error = difference / np.sqrt(np.mean(np.square(expected, dtype=np.float64)))
    return float(error) if np.isfinite(error) else float("inf")


@dataclass(frozen=True)
class Golden:
    """Sampled arrays of the official code, by name: (shape, flat positions, values there)."""

    samples: dict[str, tuple[tuple[int, ...], NDArray[Any], NDArray[Any]]]

    def compare(self, name: str, array: NDArray[Any]) -> float:
        """Return max |array - golden| / rms(golden) over the sampled positions of an NHWC array."""
        shape, index, value = self.samples[name]
        assert array.shape == shape, f"{name} has shape {array.shape}, expected {shape}"
        return error_over_rms(array.reshape(-1)[index], value)

    def compare_heads(self, outputs: HeadOutputs) -> float:
        """Return the largest measure over both heads and all levels; every array of the file is compared."""
        arrays = {f"class_{level}": array for level, array in outputs.class_logits.items()}
        arrays |= {f"box_{level}": array for level, array in outputs.box_deltas.items()}
        assert arrays.keys() == self.samples.keys()
        return max(self.compare(name, array) for name, array in arrays.items())


def load_golden(path: Path) -> Golden:
    """Read a golden file: `K|shape`, `K|index`, `K|value` for every array K."""
    with np.load(path, allow_pickle=False) as arrays:
        names = [key.removesuffix("|shape") for key in arrays if key.endswith("|shape")]
        return Golden(
            {name: (tuple(arrays[f"{name}|shape"]), arrays[f"{name}|index"], arrays[f"{name}|value"]) for name in names}
        )


@dataclass(frozen=True)
class GoldenCase:
    """The parts of a golden file's name: VARIANT_VIEW_INPUT_SIZE[_f64].npz."""

    path: Path
    config: EfficientDetConfig
    view: str
    source: str
    dtype: Literal["float32", "float64"]

    @classmethod
    def from_path(cls, path: Path) -> GoldenCase:
        match = re.fullmatch(r"(\w+?)_(ema|raw)_(rand|img)_(\d+)(?:x(\d+))?(_f64)?", path.stem)
        assert match is not None, path.name
        variant, view, source, height, width, double = match.groups()
        config = get_config(variant, image_size=(int(height), int(width or height)))
        return cls(path, config, view, source, "float64" if double else "float32")


def seeded_view(shared: Path, seeded: ModuleType, variant: str, view: str) -> dict[str, NDArray[Any]]:
    """Draw the variables of a variant on which the golden files were computed."""
    shapes = seeded.read_shapes(shared / "reference" / "variables" / f"{variant}.tsv")
    return dict(seeded.seeded_variables(shapes, view=view))


def golden_input(shared: Path, seeded: ModuleType, case: GoldenCase) -> NDArray[Any]:
    """Return the images (1, H, W, 3), float32, that a golden file was computed on."""
    if case.source == "rand":
        images: NDArray[Any] = seeded.random_input(*case.config.image_size)
        return images
    return official_input((shared / "reference" / "images" / "img1.jpg").read_bytes(), case.config)


def official_input(jpeg: bytes, config: EfficientDetConfig) -> NDArray[Any]:
    """Prepare an image with TensorFlow's own operations, bit for bit as the official graph does: (1, H, W, 3)."""
    tf = import_tensorflow()
    pixels = tf.cast(tf.io.decode_jpeg(jpeg, channels=3, dct_method="INTEGER_ACCURATE"), tf.float32)
    # TensorFlow's graph optimizer turns the official division by a constant into this product.
    pixels = (pixels - config.mean_rgb) * (1 / np.array(config.std_rgb, np.float32))
    size, target = np.array(pixels.shape[:2], np.float32), np.array(config.image_size, np.float32)
    height, width = (int(side) for side in size * (target / size).min())
    resized = tf.image.resize(pixels, (height, width))
    return np.asarray(tf.image.pad_to_bounding_box(resized, 0, 0, *config.image_size)[None])
