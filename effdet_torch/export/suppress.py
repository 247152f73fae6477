"""Non-maximum suppression that a graph can hold: the selections of `geometry.nms`, one per turn of a loop.

`while_loop` becomes ONNX's `Loop`, and a loop in a compiled program; run from Python it compiles itself first, so for
anything but an export `geometry.nms` is faster.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch._higher_order_ops.while_loop import while_loop

from effdet_torch.inference.postprocess import Profile

DENORMAL = 1.2e-38  # TensorFlow treats smaller scores as 0


def suppress(boxes: Tensor, scores: Tensor, classes: Tensor | None, profile: Profile) -> tuple[Tensor, Tensor, Tensor]:
    """Select the best boxes of every image; arguments and results are those of `geometry.nms.non_max_suppression`.

    Args:
        boxes: (B, N, 4) corners, x or y first.
        scores: (B, N) float32.
        classes: (B, N); None: all boxes suppress each other.
        profile: sigma, thresholds and the number of detections M.

    Returns:
        indices (B, M) int64 into N, best first; scores (B, M); the number of selected boxes (B,) int64.
    """
    soft = profile.sigma > 0
    threshold = max(profile.score_threshold, DENORMAL if soft else -1e20)
    removed = 0.0 if soft else -math.inf
    sides, areas = _sides(boxes)
    slots = torch.arange(profile.max_detections, device=boxes.device)[None]
    exponent = -1 / profile.sigma if soft else 0.0

    def goes_on(step: Tensor, remaining: Tensor, *_: Tensor) -> Tensor:
        return (step < profile.max_detections) & (remaining.max() > threshold)

    def select(step: Tensor, remaining: Tensor, indices: Tensor, selected: Tensor) -> tuple[Tensor, ...]:
        index = remaining.argmax(dim=1, keepdim=True)
        score = remaining.gather(1, index)
        overlap = _overlaps(sides, index)
        if classes is not None:
            overlap = overlap * (classes == classes.gather(1, index))
        iou = overlap / (areas + areas.gather(1, index) - overlap)
        if soft:
            remaining = remaining * torch.exp(iou * iou * exponent)
            remaining = torch.where(remaining > threshold, remaining, removed)
        else:
            remaining = torch.where(iou > profile.iou_threshold, removed, remaining)
        is_slot = slots == step
        indices, selected = torch.where(is_slot, index, indices), torch.where(is_slot, score, selected)
        return step + 1, remaining.scatter(1, index, removed), indices, selected

    shape = (scores.shape[0], profile.max_detections)
    start = (
        torch.zeros((), dtype=torch.int64, device=boxes.device),
        torch.where(scores > threshold, scores, removed),
        torch.zeros(shape, dtype=torch.int64, device=boxes.device),
        torch.full(shape, removed, device=boxes.device),
    )
    _, _, indices, selected = while_loop(goes_on, select, start)  # type: ignore[no-untyped-call]
    valid = selected > threshold
    return torch.where(valid, indices, 0), torch.where(valid, selected, 0.0), valid.sum(dim=1)


def _sides(boxes: Tensor) -> tuple[list[Tensor], Tensor]:
    """Return the sides of the boxes, lower ends first, and their areas, (B, N) each.

    A box without a positive finite area becomes a point of infinite area, which overlaps nothing.
    """
    low, high = torch.minimum(boxes[:, :, :2], boxes[:, :, 2:]), torch.maximum(boxes[:, :, :2], boxes[:, :, 2:])
    areas = (high[:, :, 0] - low[:, :, 0]) * (high[:, :, 1] - low[:, :, 1])
    proper = (areas > 0) & (areas < math.inf)
    ends = (low[:, :, 0], low[:, :, 1], high[:, :, 0], high[:, :, 1])
    return [torch.where(proper, end, 0.0) for end in ends], torch.where(proper, areas, math.inf)


def _overlaps(sides: list[Tensor], index: Tensor) -> Tensor:
    """Return the common areas (B, N) of all boxes with one box of every image, `index` (B, 1)."""
    chosen = [side.gather(1, index) for side in sides]
    width = torch.minimum(sides[2], chosen[2]) - torch.maximum(sides[0], chosen[0])
    height = torch.minimum(sides[3], chosen[3]) - torch.maximum(sides[1], chosen[1])
    return torch.relu(width) * torch.relu(height)
