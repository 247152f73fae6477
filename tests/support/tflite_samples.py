"""The sample files of TensorFlow Lite: those beside the project, and those that its listings describe."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from converter.conversion import convert_checkpoint, prepare
from converter.locate import open_checkpoint
from effdet_torch import load_model
from effdet_torch.config import EfficientDetConfig, get_config
from effdet_torch.geometry.anchors import anchors_yxyx
from effdet_torch.network.model import EfficientDet
from support.golden import seeded_view
from support.tflite_files import Listing, fill, read_listing
from verify.reference.base import HeadOutputs

# Listing -> the variant, and the side of its images.
LISTINGS = {"d0_tflite_none": ("d0", 128), "lite0_tflite_none": ("lite0", 320), "lite0_predict_none": ("lite0", 320)}


def sources(shared: Path) -> Path:
    """Return the folder with files and listings."""
    return shared / "reference" / "sources" / "tflite"


def sample(shared: Path, seeded: ModuleType, name: str) -> tuple[Listing, dict[int, NDArray[Any]]]:
    """Return a listing and the constants of its file."""
    variant, side = LISTINGS[name]
    listing = read_listing(sources(shared) / f"{name}.txt")
    anchors = centred_anchors(get_config(variant, image_size=side))
    return listing, fill(listing, seeded_view(shared, seeded, variant, "ema"), anchors)


def centred_anchors(config: EfficientDetConfig) -> NDArray[np.float64]:
    """Return anchors as the detection operation takes them: y, x, height, width, divided by the image's size."""
    corners, size = anchors_yxyx(config).astype(np.float64), np.array(config.image_size)
    low, high = corners[:, :2], corners[:, 2:]
    return np.concatenate([(low + high) / 2 / size, (high - low) / size], axis=1)


def converted(path: Path, folder: Path) -> EfficientDet:
    """Convert a file and load the result."""
    with open_checkpoint(path) as source:
        convert_checkpoint(prepare(source), folder / "converted.pth")
    return load_model(folder / "converted.pth").float().eval()


def outputs(model: EfficientDet, images: NDArray[Any]) -> HeadOutputs:
    """Run a model on (B, H, W, 3) images."""
    with torch.inference_mode():
        found = model(torch.from_numpy(images).permute(0, 3, 1, 2))
    levels = model.config.levels
    classes, boxes = (
        {level: array.permute(0, 2, 3, 1).numpy() for level, array in zip(levels, head, strict=True)} for head in found
    )
    return HeadOutputs(classes, boxes)
