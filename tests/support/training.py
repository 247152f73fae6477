"""Official results of the training, and plain versions of what the trainer computes in clever ways."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from effdet_torch.config import EfficientDetConfig, get_config
from effdet_torch.geometry.boxes import yxyx_to_xyxy

CONFIGS = {
    "d0_256": get_config("d0", image_size=256),
    "d0_512": get_config("d0"),
    "lite0_320": get_config("lite0"),
    "d0_384x640": get_config("d0", image_size=(384, 640)),
}


class LabelledBoxes(NamedTuple):
    """The boxes (N, 4) xyxy and labels (N,) of one image."""

    boxes_xyxy: Tensor
    labels: Tensor

    @classmethod
    def of(cls, arrays: dict[str, NDArray[Any]], prefix: str) -> LabelledBoxes:
        boxes = yxyx_to_xyxy(torch.from_numpy(arrays[f"{prefix}|boxes_yxyx"]))
        return cls(boxes, torch.from_numpy(arrays[f"{prefix}|classes"].astype(np.int64)))


def load_arrays(shared: Path, name: str) -> dict[str, NDArray[Any]]:
    with np.load(shared / "reference" / "training" / name, allow_pickle=False) as arrays:
        return dict(arrays)


def load_json(shared: Path, name: str) -> Any:
    return json.loads((shared / "reference" / "training" / name).read_text("utf-8"))


def dense_match(
    boxes_yxyx: NDArray[Any], anchors_yxyx: NDArray[Any], higher_row_wins: bool = False
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Compare every box with every anchor: (positive anchors, ascending; row of the box of each)."""
    if not len(boxes_yxyx):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    anchors = anchors_yxyx.astype(boxes_yxyx.dtype)
    ymin, xmin, ymax, xmax = boxes_yxyx.T[:, :, None]
    with np.errstate(over="ignore"):
        height = np.maximum(np.minimum(ymax, anchors[:, 2]) - np.maximum(ymin, anchors[:, 0]), 0)
        width = np.maximum(np.minimum(xmax, anchors[:, 3]) - np.maximum(xmin, anchors[:, 1]), 0)
        common = height * width
        sizes = (anchors[:, 2] - anchors[:, 0]) * (anchors[:, 3] - anchors[:, 1])
        union = (ymax - ymin) * (xmax - xmin) + sizes - common
        ious = np.where(common == 0, 0, common / np.where(common == 0, 1, union))
    row = np.where(ious.max(axis=0) >= 0.5, ious.argmax(axis=0), -1)
    for number in range(len(ious)) if higher_row_wins else reversed(range(len(ious))):
        row[ious[number].argmax()] = number
    positive = np.flatnonzero(row >= 0)
    return positive, row[positive]


def other_config(config: EfficientDetConfig, **changes: Any) -> EfficientDetConfig:
    return get_config(config.name, image_size=config.image_size, **changes)
