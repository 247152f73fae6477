"""What was found in one image, and in one image file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from effdet_torch.geometry.numpy_boxes import xyxy_to_xywh
from effdet_torch.inference.images import ImageError
from effdet_torch.metrics.columns import CocoResult


@dataclass(frozen=True)
class ImageDetections:
    """What was found in one image, best first.

    Attributes:
        boxes_xyxy: (N, 4) float32 as (xmin, ymin, xmax, ymax) in pixels of the original image.
        scores: (N,) float32, 0..1.
        category_ids: (N,) int64, class channel + 1: COCO's ids for the official models.
        names: of the N categories.
        mask: (height, width) of the original image, the class of every pixel, from 0; uint8 or uint16. None without a
            segmentation head.
    """

    boxes_xyxy: NDArray[np.float32]
    scores: NDArray[np.float32]
    category_ids: NDArray[np.int64]
    names: list[str]
    mask: NDArray[Any] | None = None

    @classmethod
    def none(cls) -> ImageDetections:
        """Return no detections."""
        return cls(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64), [])

    def __len__(self) -> int:
        return len(self.names)

    def mask_shares(self) -> dict[int, float]:
        """Return {class: its share of the pixels, 0..1} of the classes in the mask; {} if there is none."""
        if self.mask is None:
            return {}
        classes, counts = np.unique(self.mask, return_counts=True)
        return dict(zip(classes.tolist(), (counts / self.mask.size).tolist(), strict=True))

    def to_coco(self, image_id: int | str) -> list[dict[str, Any]]:
        """Return the detections as entries of a COCO results file; `bbox` is (xmin, ymin, width, height)."""
        boxes_xywh = xyxy_to_xywh(self.boxes_xyxy)
        columns = (array.tolist() for array in (self.category_ids, boxes_xywh, self.scores))
        return [
            {"image_id": image_id, "category_id": category_id, "bbox": box_xywh, "score": score}
            for category_id, box_xywh, score in zip(*columns, strict=True)
        ]


@dataclass(frozen=True)
class FileDetections:
    """One image file and what was found in it, or why it could not be read.

    Attributes:
        path: the file.
        coco: the detections as entries of a COCO results file, best first.
        names: of their classes.
        error: why the file could not be read.
        mask: of a model with a segmentation head: "image_id", "mask" (the name of the file with the mask, or None) and
            "shares" ({class: share of the pixels}).
        detects: whether the model predicts boxes.
    """

    path: Path
    coco: Sequence[CocoResult] = ()
    names: Sequence[str] = ()
    error: ImageError | None = None
    mask: dict[str, Any] | None = None
    detects: bool = True

    @property
    def entries(self) -> Sequence[CocoResult]:
        """What a JSON file lists: COCO results, or without boxes the mask."""
        return self.coco if self.detects or self.mask is None else [self.mask]

    @property
    def summary(self) -> str:
        """One line: the number of detections of each class, the class of the best detection first; shares of pixels."""
        if self.error is not None:
            return str(self.error)
        parts = []
        if self.detects:
            counts = ", ".join(f"{name} {count}" for name, count in Counter(self.names).items())
            plural = "" if len(self.coco) == 1 else "s"
            parts.append(f"{len(self.coco)} detection{plural}" + (f" ({counts})" if counts else ""))
        if self.mask is not None:
            shares = (f"class {number} {share:.1%}" for number, share in self.mask["shares"].items())
            parts.append(f"pixels: {', '.join(shares)}")
        return f"{self.path}: {'; '.join(parts)}"
