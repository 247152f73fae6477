"""Boxes: deltas to corners and back.

The coordinate order is part of every name: yxyx and xyxy are corners (minimum first), xywh is COCO's left, top, width,
height.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

# The least size of a box in front of the logarithm, as in the official box coder.
_LEAST_SIZE_PX = 1e-8


def decode_boxes_xyxy(box_deltas: Tensor, anchors_yxyx: Tensor) -> Tensor:
    """Turn box deltas into corner coordinates.

    Args:
        box_deltas: (..., A, 4), order (ty, tx, th, tw); offsets in anchor sizes, log scale.
        anchors_yxyx: (A, 4), or (..., A, 4) with one set per image, in pixels of the network input.

    Returns:
        (..., A, 4) as (xmin, ymin, xmax, ymax) in the same pixels; not clipped.

    Source: EfficientDet official code, `decode_box_outputs`; Faster R-CNN (arXiv:1506.01497) equation 2.
    """
    center_y, center_x, height, width = _center_form(anchors_yxyx)
    ty, tx, th, tw = box_deltas.unbind(dim=-1)
    half_height = torch.exp(th) * height / 2
    half_width = torch.exp(tw) * width / 2
    y = ty * height + center_y
    x = tx * width + center_x
    return torch.stack((x - half_width, y - half_height, x + half_width, y + half_height), dim=-1)


def encode_boxes_xyxy(boxes_xyxy: Tensor, anchors_yxyx: Tensor) -> Tensor:
    """Turn corner coordinates into box deltas; the inverse of `decode_boxes_xyxy`.

    An empty box gets a large negative th or tw. In float32 the same deltas are exactly 0 as in the
    official code.

    Args:
        boxes_xyxy: (..., A, 4) as (xmin, ymin, xmax, ymax) in pixels.
        anchors_yxyx: (A, 4) or (..., A, 4) in the same pixels.

    Returns:
        (..., A, 4), order (ty, tx, th, tw).

    Source: EfficientDet official code, Faster R-CNN box coder without scale factors.
    """
    anchor_low, anchor_sizes = _low_and_sizes(anchors_yxyx)
    low, sizes = _low_and_sizes(yxyx_to_xyxy(boxes_xyxy))
    # Half the sum of the corners would round in another way.
    distances = (low + sizes / 2) - (anchor_low + anchor_sizes / 2)
    sizes, anchor_sizes = sizes.clamp(min=_LEAST_SIZE_PX), anchor_sizes.clamp(min=_LEAST_SIZE_PX)
    return torch.cat((distances / anchor_sizes, torch.log(sizes / anchor_sizes)), dim=-1)


def yxyx_to_xyxy(boxes: Tensor) -> Tensor:
    """Swap x and y of corner coordinates, (..., 4); its own inverse, so it also turns xyxy into yxyx."""
    first_min, second_min, first_max, second_max = boxes.unbind(dim=-1)
    return torch.stack((second_min, first_min, second_max, first_max), dim=-1)


def xyxy_to_xywh(boxes_xyxy: Tensor) -> Tensor:
    """Turn corners (xmin, ymin, xmax, ymax) into COCO's (xmin, ymin, width, height), (..., 4)."""
    xmin, ymin, xmax, ymax = boxes_xyxy.unbind(dim=-1)
    return torch.stack((xmin, ymin, xmax - xmin, ymax - ymin), dim=-1)


def clip_boxes_xyxy(boxes_xyxy: Tensor, size: tuple[int, int]) -> Tensor:
    """Move the corners (..., 4) that lie outside an image to its border; `size` is (height, width) in pixels."""
    limits = (size[1], size[0], size[1], size[0])
    sides = zip(boxes_xyxy.unbind(dim=-1), limits, strict=True)
    return torch.stack([side.clamp(0, limit) for side, limit in sides], dim=-1)


def proper_boxes(boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Return boxes as non-maximum suppression takes them: lower corner first, and their areas.

    A box without a positive finite area becomes a point of infinite area, which overlaps nothing: its intersection with
    anything over the union is 0, as TensorFlow defines it.

    Args:
        boxes: (B, N, 4) corners, x or y first, in either order.

    Returns:
        (B, N, 4) corners and (B, N) areas.
    """
    low, high = torch.minimum(boxes[:, :, :2], boxes[:, :, 2:]), torch.maximum(boxes[:, :, :2], boxes[:, :, 2:])
    areas = (high[:, :, 0] - low[:, :, 0]) * (high[:, :, 1] - low[:, :, 1])
    proper = (areas > 0.0) & (areas < math.inf)
    corners = torch.where(proper[:, :, None], torch.cat((low, high), dim=2), 0.0)
    return corners, torch.where(proper, areas, math.inf)


def _center_form(boxes_yxyx: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return (center y, center x, height, width), each without the last axis."""
    ymin, xmin, ymax, xmax = boxes_yxyx.unbind(dim=-1)
    return (ymin + ymax) / 2, (xmin + xmax) / 2, ymax - ymin, xmax - xmin


def _low_and_sizes(boxes_yxyx: Tensor) -> tuple[Tensor, Tensor]:
    """Return the lower corners and the sizes, (..., 2) each as (y, x)."""
    low, high = boxes_yxyx[..., :2], boxes_yxyx[..., 2:]
    return low, high - low
