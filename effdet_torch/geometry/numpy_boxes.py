"""Boxes in NumPy: what `boxes` computes in torch."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def decode_boxes_xyxy(box_deltas: NDArray[np.float32], anchors_yxyx: NDArray[np.float32]) -> NDArray[np.float32]:
    """Turn box deltas (N, 4) of anchors (N, 4) into corners (N, 4); see `boxes.decode_boxes_xyxy`."""
    ty, tx, th, tw = np.ascontiguousarray(box_deltas.T)
    ymin, xmin, ymax, xmax = np.ascontiguousarray(anchors_yxyx.T)
    height, width = ymax - ymin, xmax - xmin
    with np.errstate(over="ignore", invalid="ignore"):  # a broken network; NMS knows what to do with infinite boxes
        half_height, half_width = np.exp(th) * height / 2, np.exp(tw) * width / 2
        y, x = ty * height + (ymin + ymax) / 2, tx * width + (xmin + xmax) / 2
        return np.stack((x - half_width, y - half_height, x + half_width, y + half_height), axis=1)


def xyxy_to_xywh(boxes_xyxy: NDArray[Any]) -> NDArray[Any]:
    """Turn corners (N, 4) into COCO's (xmin, ymin, width, height)."""
    return np.concatenate((boxes_xyxy[:, :2], boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]), axis=1)


def clip_boxes_xyxy(boxes_xyxy: NDArray[np.float32], size: tuple[float, float]) -> NDArray[np.float32]:
    """Move the corners (N, 4) outside an image to its border; `size` is (height, width) in pixels."""
    clipped: NDArray[np.float32] = np.clip(boxes_xyxy, 0, np.array(size[::-1] * 2, boxes_xyxy.dtype))
    return clipped
