"""Non-maximum suppression that a graph can hold: the selections of `nms`, one per turn of a loop.

`while_loop` becomes ONNX's `Loop`, and a loop in a compiled program. Called from Python it compiles itself first, so
`nms` is faster for anything but an export.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch._higher_order_ops.while_loop import while_loop

from effdet_torch.geometry.boxes import proper_boxes
from effdet_torch.geometry.thresholds import least_score


def loop_nms(
    boxes: Tensor,
    scores: Tensor,
    classes: Tensor | None = None,
    max_outputs: int = 100,
    iou_threshold: float = 0.5,
    score_threshold: float = -math.inf,
    soft_nms_sigma: float = 0.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Select the best boxes of every image; arguments, results and errors are those of `nms.non_max_suppression`."""
    soft = soft_nms_sigma > 0.0
    threshold, removed = least_score(iou_threshold, score_threshold, soft), 0.0 if soft else -math.inf
    corners, areas = proper_boxes(boxes)
    # Each in memory of its own: a loop takes no views, and reads columns of `corners` four times as slowly.
    sides = [side.clone() for side in corners.unbind(dim=2)]
    slots = torch.arange(max_outputs, device=boxes.device)[None]

    def goes_on(step: Tensor, remaining: Tensor, *_: Tensor) -> Tensor:
        return (step < max_outputs) & (remaining.max() > threshold)

    def select(step: Tensor, remaining: Tensor, indices: Tensor, selected: Tensor) -> tuple[Tensor, ...]:
        index = remaining.argmax(dim=1, keepdim=True)
        score = remaining.gather(1, index)
        overlap = _overlaps(sides, index)
        if classes is not None:
            overlap = overlap * (classes == classes.gather(1, index))
        iou = overlap / (areas + areas.gather(1, index) - overlap)
        if soft:
            remaining = remaining * torch.exp(iou * iou * (-0.5 / soft_nms_sigma))
            remaining = torch.where(remaining > threshold, remaining, removed)
        else:
            remaining = torch.where(iou > iou_threshold, removed, remaining)
        is_slot = slots == step
        indices, selected = torch.where(is_slot, index, indices), torch.where(is_slot, score, selected)
        return step + 1, remaining.scatter(1, index, removed), indices, selected

    shape = (scores.shape[0], max_outputs)
    start = (
        torch.zeros((), dtype=torch.int64, device=boxes.device),
        torch.where(scores > threshold, scores, removed),
        torch.zeros(shape, dtype=torch.int64, device=boxes.device),
        torch.full(shape, removed, device=boxes.device),
    )
    _, _, indices, selected = while_loop(goes_on, select, start)  # type: ignore[no-untyped-call]
    valid = selected > threshold
    return torch.where(valid, indices, 0), torch.where(valid, selected, 0.0), valid.sum(dim=1)


def _overlaps(sides: Sequence[Tensor], index: Tensor) -> Tensor:
    """Return the common areas (B, N) of all boxes with one box of every image, `index` (B, 1)."""
    chosen = [side.gather(1, index) for side in sides]
    width = torch.minimum(sides[2], chosen[2]) - torch.maximum(sides[0], chosen[0])
    height = torch.minimum(sides[3], chosen[3]) - torch.maximum(sides[1], chosen[1])
    return torch.relu(width) * torch.relu(height)
