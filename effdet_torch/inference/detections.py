"""What was found in one image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from effdet_torch.geometry.numpy_boxes import xyxy_to_xywh


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
