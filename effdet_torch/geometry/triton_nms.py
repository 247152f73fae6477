"""`non_max_suppression` as one kernel for NVIDIA GPUs: a program per image does all of its steps.

The operations of `nms.py`, which takes ten kernels per step.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from effdet_torch.geometry.boxes import proper_boxes
from effdet_torch.geometry.nms import fixed_size
from effdet_torch.geometry.thresholds import least_score

CANDIDATES_AT_ONCE = 1024
WARPS = 4


@triton.jit  # type: ignore[untyped-decorator]
def _decayed(  # type: ignore[no-untyped-def]  # noqa: ANN202
    score,  # noqa: ANN001
    boxes,  # noqa: ANN001
    index,  # noqa: ANN001
    inside,  # noqa: ANN001
    best,  # noqa: ANN001
    iou_threshold,  # noqa: ANN001
    score_threshold,  # noqa: ANN001
    exponent,  # noqa: ANN001
    REMOVED: tl.constexpr,  # noqa: N803
    SOFT: tl.constexpr,  # noqa: N803
):
    """Return the scores that candidates have once `best` is selected."""
    width = tl.minimum(tl.load(boxes + index * 6 + 2, inside, 0.0), tl.load(boxes + best * 6 + 2)) - tl.maximum(
        tl.load(boxes + index * 6, inside, 0.0), tl.load(boxes + best * 6)
    )
    height = tl.minimum(tl.load(boxes + index * 6 + 3, inside, 0.0), tl.load(boxes + best * 6 + 3)) - tl.maximum(
        tl.load(boxes + index * 6 + 1, inside, 0.0), tl.load(boxes + best * 6 + 1)
    )
    common = tl.maximum(width, 0.0) * tl.maximum(height, 0.0)
    together = tl.load(boxes + index * 6 + 4, inside, 1.0) + tl.load(boxes + best * 6 + 4) - common
    same = tl.load(boxes + index * 6 + 5, inside, -1.0) == tl.load(boxes + best * 6 + 5)
    iou = tl.where(same, common / together, 0.0)
    if SOFT:
        score *= tl.exp2(iou * iou * exponent)
        score = tl.where(score > score_threshold, score, REMOVED)
    else:
        score = tl.where(iou > iou_threshold, REMOVED, score)
    return tl.where(index == best, REMOVED, score)


@triton.jit  # type: ignore[untyped-decorator]
def _select(  # type: ignore[no-untyped-def]  # noqa: ANN202
    boxes,  # noqa: ANN001
    places,  # noqa: ANN001
    remaining,  # noqa: ANN001
    positions,  # noqa: ANN001
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
    """Select from candidates in the order of their scores, of which a block takes part once it may win.

    boxes (B, N, 6) are x0, y0, x1, y1, area, class; places (B, N) those in the order of the caller, of which the lower
    wins among equal scores; remaining (B, N) the scores, descending, which are overwritten; positions and scores
    (B, steps) the result.
    """
    image = tl.program_id(0).to(tl.int64)
    boxes += image * count * 6
    places += image * count
    remaining += image * count
    positions += image * steps
    scores += image * steps
    lanes = tl.arange(0, BLOCK)
    active = 0
    for step in range(steps):
        lane_scores = tl.full((BLOCK,), -float("inf"), tl.float32)
        lane_places = tl.full((BLOCK,), 2147483647, tl.int32)
        lane_positions = tl.zeros((BLOCK,), tl.int32)
        start = 0
        waiting = 1
        while waiting > 0:
            index = start + lanes
            inside = index < count
            score = tl.load(remaining + index, inside, -float("inf"))
            first = step - 1
            if start >= active:  # a block that takes part from now on has all selections before it
                first = 0
            for earlier in range(first, step):
                best = tl.load(positions + earlier)
                score = _decayed(
                    score, boxes, index, inside, best, iou_threshold, score_threshold, exponent, REMOVED, SOFT
                )
            tl.store(remaining + index, score, inside)
            place = tl.load(places + index, inside, 2147483647)
            is_better = inside & ((score > lane_scores) | ((score == lane_scores) & (place < lane_places)))
            lane_scores = tl.where(is_better, score, lane_scores)
            lane_places = tl.where(is_better, place, lane_places)
            lane_positions = tl.where(is_better, index, lane_positions)
            start += BLOCK
            waiting = 0
            if start < count:
                if start < active:
                    waiting = 1
                else:
                    if tl.load(remaining + start) >= tl.max(lane_scores, 0):
                        waiting = 1
        active = tl.maximum(active, start)
        best_score = tl.max(lane_scores, 0)
        best_place = tl.min(tl.where(lane_scores == best_score, lane_places, 2147483647), 0)
        best_position = tl.max(tl.where(lane_places == best_place, lane_positions, 0), 0)
        tl.store(positions + step, best_position)
        tl.store(scores + step, best_score)
        tl.debug_barrier()  # all threads read the position that one has written


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
    remaining = torch.where(scores > score_threshold, scores, removed)
    remaining, order = remaining.sort(dim=1, descending=True, stable=True)
    candidates = _candidates(boxes, classes).gather(1, order[:, :, None].expand(-1, -1, 6)).contiguous()
    positions = torch.empty((scores.shape[0], steps), dtype=torch.int32, device=scores.device)
    selected = torch.empty((scores.shape[0], steps), device=scores.device)
    _select[(scores.shape[0],)](
        *(candidates, order.int(), remaining.contiguous(), positions, selected, scores.shape[1], steps),
        *(iou_threshold, score_threshold, -0.5 / (math.log(2.0) * soft_nms_sigma) if soft else 0.0),
        REMOVED=removed,
        SOFT=soft,
        BLOCK=min(CANDIDATES_AT_ONCE, triton.next_power_of_2(scores.shape[1])),
        num_warps=WARPS,
    )
    return fixed_size(order.gather(1, positions.long()), selected, max_outputs, score_threshold)


def _candidates(boxes: Tensor, classes: Tensor | None) -> Tensor:
    """Return corners, area and class of boxes (B, N, 4), see `proper_boxes`: (B, N, 6)."""
    corners, areas = proper_boxes(boxes)
    kinds = torch.zeros_like(areas) if classes is None else classes.float()
    return torch.cat((corners, areas[:, :, None], kinds[:, :, None]), dim=2)
