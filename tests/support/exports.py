"""A small model, its exported files, and how these are compared with it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from effdet_torch.engines.file_engine import FileEngine
from effdet_torch.engines.table import open_engine
from effdet_torch.export.export import export_model
from effdet_torch.export.settings import ExportSettings
from effdet_torch.network.model import EfficientDet
from support.golden import error_over_rms
from support.networks import alive
from support.sources import small_config

SIZE = (128, 192)  # height, width
LIMIT = 2e-4  # of rms, float32: sums in another order


def export_sample(seed: int = 0) -> EfficientDet:
    """A network with all levels of a d0, small otherwise, whose outputs differ between images."""
    model = alive(EfficientDet(small_config(image_size=SIZE, max_level=7, num_classes=3)), seed)
    with torch.no_grad():  # scores that differ, and boxes about as large as their anchors
        model.get_parameter("class_net.predict.conv_pw.weight").mul_(0.05)
        model.get_parameter("box_net.predict.conv_pw.weight").mul_(0.005)
    return model


def exported(model: EfficientDet, path: Path, format_name: str | None = None, **settings: Any) -> FileEngine:
    """Export without the check, which the tests are about, and open the file."""
    export_model(model, path, ExportSettings(**settings), format_name, check=False)
    return open_engine(path)


def noise(batch: int, size: tuple[int, int] = SIZE, seed: int = 3) -> NDArray[np.float32]:
    """Normalised pixels (B, 3, H, W)."""
    return np.random.default_rng(seed).standard_normal((batch, 3, *size), np.float32)


def raw_outputs(model: EfficientDet, pixels: NDArray[np.float32]) -> list[NDArray[Any]]:
    """Return the outputs of the model in PyTorch, classes first."""
    with torch.inference_mode():
        return [tensor.numpy() for level in model(torch.from_numpy(pixels)) for tensor in level]


def worst_error(found: Sequence[NDArray[Any]], expected: Sequence[NDArray[Any]]) -> float:
    """Return the largest error of all outputs, of their rms."""
    return max(error_over_rms(*pair) for pair in zip(found, expected, strict=True))
