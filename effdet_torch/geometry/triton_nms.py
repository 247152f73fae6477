"""`non_max_suppression` as one kernel for NVIDIA GPUs: a program per image does all of its steps.

The operations of `nms.py`, which takes ten kernels per step.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from effdet_torch.geometry.nms import fixed_size
from effdet_torch.geometry.thresholds import least_score

CANDIDATES_AT_ONCE = 2048  # of a program
WARPS = 8


@triton.jit  # type: ignore[untyped-decorator]
def _select(  # type: ignore[no-untyped-def]  # noqa: ANN202
    boxes,  # noqa: ANN001
    areas,  # noqa: ANN001
    classes,  # noqa: ANN001
    remaining,  # noqa: ANN001
    indices,  # noqa: ANN001
    scores,  # noqa: ANN001
    count,  # noqa: ANN001
    steps,  # noqa: ANN001
    iou_threshold,  # noqa: ANN001
    score_threshold,  # noqa: ANN001
    exponent,  # noqa: ANN001
    REMOVED: tl.constexpr,  # noqa: N803
    SOFT: tl.constexpr,  # noqa: N803
    BLOCK: tl.constexpr,  # noqa: N803
):
    image = tl.program_id(0).to(tl.int64)
    boxes += image * count * 4
    areas += image * count
    classes += image * count
    remaining += image * count
    lanes = tl.arange(0, BLOCK)
    best = -1
    best_class = -1
    left = 0.0
    top = 0.0
    right = 0.0
    bottom = 0.0
    best_area = 1.0
    for step in range(steps):
        lane_scores = tl.full((BLOCK,), -float("inf"), tl.float32)
        lane_indices = tl.zeros((BLOCK,), tl.int32)
        for start in range(0, count, BLOCK):
            index = start + lanes
            inside = index < count
            score = tl.load(remaining + index, inside, -float("inf"))
            if step > 0:
                x0 = tl.load(boxes + index * 4, inside, 0.0)
                y0 = tl.load(boxes + index * 4 + 1, inside, 0.0)
                x1 = tl.load(boxes + index * 4 + 2, inside, 0.0)
                y1 = tl.load(boxes + index * 4 + 3, inside, 0.0)
                area = tl.load(areas + index, inside, 1.0)
                same = tl.load(classes + index, inside, -2) == best_class
                width = tl.maximum(tl.minimum(x1, right) - tl.maximum(x0, left), 0.0)
                height = tl.maximum(tl.minimum(y1, bottom) - tl.maximum(y0, top), 0.0)
                common = width * height
                iou = tl.where(same, common / (area + best_area - common), 0.0)
                if SOFT:
                    score *= tl.exp2(iou * iou * exponent)
                    score = tl.where(score > score_threshold, score, REMOVED)
                else:
                    score = tl.where(iou > iou_threshold, REMOVED, score)
                score = tl.where(index == best, REMOVED, score)
                tl.store(remaining + index, score, inside)
            is_better = score > lane_scores
            lane_scores = tl.where(is_better, score, lane_scores)
            lane_indices = tl.where(is_better, index, lane_indices)
        best_score = tl.max(lane_scores, 0)
        # Among equal scores the lowest index, and a lane holds its own lowest; without any score the first.
        best = tl.min(tl.where(lane_scores == best_score, lane_indices, count - 1), 0)
        tl.store(indices + image * steps + step, best)
        tl.store(scores + image * steps + step, best_score)
        left = tl.load(boxes + best * 4)
        top = tl.load(boxes + best * 4 + 1)
        right = tl.load(boxes + best * 4 + 2)
        bottom = tl.load(boxes + best * 4 + 3)
        best_area = tl.load(areas + best)
        best_class = tl.load(classes + best)


def non_max_suppression(
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
    score_threshold, removed = least_score(iou_threshold, score_threshold, soft), 0.0 if soft else -math.inf
    steps, boxes, scores = min(max_outputs, scores.shape[1]), boxes.detach().float(), scores.detach().float()
    corners, areas = _corners_and_areas(boxes)
    remaining = torch.where(scores > score_threshold, scores, removed).contiguous()
    kinds = torch.zeros_like(remaining, dtype=torch.int32) if classes is None else classes.int().contiguous()
    indices = torch.empty((scores.shape[0], steps), dtype=torch.int32, device=scores.device)
    selected = torch.empty((scores.shape[0], steps), device=scores.device)
    _select[(scores.shape[0],)](
        *(corners, areas, kinds, remaining, indices, selected, scores.shape[1], steps),
        *(iou_threshold, score_threshold, -0.5 / (math.log(2.0) * soft_nms_sigma) if soft else 0.0),
        REMOVED=removed,
        SOFT=soft,
        BLOCK=min(CANDIDATES_AT_ONCE, triton.next_power_of_2(scores.shape[1])),
        num_warps=WARPS,
    )
    return fixed_size(indices.long(), selected, max_outputs, score_threshold)


def _corners_and_areas(boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Return the lower and the upper corners (B, N, 4), and the areas (B, N).

    A box without a positive finite area becomes a point of infinite area, which overlaps nothing.
    """
    low, high = torch.minimum(boxes[..., :2], boxes[..., 2:]), torch.maximum(boxes[..., :2], boxes[..., 2:])
    areas = (high - low).prod(dim=2)
    proper = (areas > 0.0) & (areas < math.inf)
    corners = torch.where(proper[:, :, None], torch.cat((low, high), dim=2), 0.0)
    return corners, torch.where(proper, areas, math.inf)
