"""Non-maximum suppression of one image in NumPy: the semantics of `nms`, fast on one core.

A step takes the best score of all and decays those of its class, which are a slice once the candidates are in the order
of their classes: a dozen calls on some hundred numbers. Every operation gives the same wherever in an array a number
is: equal boxes keep equal scores, and so their order.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from typing import Any

import numpy as np
from numpy.typing import NDArray

from effdet_torch.geometry.thresholds import least_score

FloatArray = NDArray[np.float32]
ZERO = np.zeros(1, np.float32)  # as an operand faster than a number


def non_max_suppression(
    boxes: FloatArray,
    scores: FloatArray,
    classes: NDArray[np.integer[Any]] | None = None,
    max_outputs: int = 100,
    iou_threshold: float = 0.5,
    score_threshold: float = -math.inf,
    soft_nms_sigma: float = 0.0,
) -> tuple[NDArray[np.int64], FloatArray]:
    """Select the best boxes of an image, greedily; among equal scores the lower class wins, then the lower index.

    Args:
        boxes: (N, 4) corners, x or y first, in any unit, in either order.
        scores: (N,); in soft mode not negative. NaN is never selected.
        classes: (N,), boxes of different classes do not suppress each other; None: all boxes are of one class.
        max_outputs: how many boxes to select at most.
        iou_threshold: 0..1; no effect in soft mode.
        score_threshold: a selected box scores more than this, after decay; in soft mode at least 0.
        soft_nms_sigma: 0 means hard, see `nms.non_max_suppression`.

    Returns:
        indices (M,) into N, best first, and their scores (M,), decayed if soft.

    Raises:
        ValueError: A threshold is out of these ranges.

    Source: TensorFlow `core/kernels/image/non_max_suppression_op.cc`; Soft-NMS (arXiv:1704.04503).
    """
    threshold = np.float32(least_score(iou_threshold, score_threshold, soft_nms_sigma > 0))
    order = np.arange(len(scores)) if classes is None else np.argsort(classes, kind="stable")
    starts = [0] if classes is None else [0, *(np.flatnonzero(np.diff(classes[order])) + 1).tolist()]
    effect = _Soft(soft_nms_sigma) if soft_nms_sigma > 0 else _Hard(iou_threshold)
    remaining = np.where(scores > threshold, scores, effect.removed)[order]
    with np.errstate(over="ignore", invalid="ignore"):  # of infinite boxes
        indices, kept = _select(boxes[order], remaining, starts, effect, max_outputs, threshold)
    return order[indices], np.array(kept, np.float32)


def _select(
    boxes: FloatArray,
    remaining: FloatArray,
    starts: list[int],
    effect: _Soft | _Hard,
    max_outputs: int,
    threshold: np.float32,
) -> tuple[list[int], list[np.float32]]:
    """Return the boxes that are selected and their scores; groups of boxes begin at `starts`."""
    ends, areas = _intervals(boxes)
    stops, groups = [*starts[1:], len(boxes)], dict[int, _Group]()
    indices, kept = list[int](), list[np.float32]()
    for _ in range(min(max_outputs, len(boxes))):
        index = int(remaining.argmax())
        score = remaining[index]
        if not score > threshold:
            break
        indices.append(index)
        kept.append(score)
        number = bisect_right(starts, index) - 1
        if number not in groups:
            members = slice(starts[number], stops[number])
            groups[number] = _Group(ends[:, members], areas[members], remaining[members], effect)
        groups[number].select(index - starts[number])
    return indices, kept


class _Soft:
    """Overlap multiplies a score by exp(-IoU^2 / (2 * sigma))."""

    removed = np.float32(0)

    def __init__(self, sigma: float) -> None:
        self._factor = np.array([-0.5 / sigma], np.float32)

    def __call__(self, scores: FloatArray, iou: FloatArray) -> None:
        np.multiply(iou, iou, out=iou)
        np.multiply(iou, self._factor, out=iou)
        np.multiply(scores, np.exp(iou, out=iou), out=scores)


class _Hard:
    """Overlap above the threshold is the end of a box."""

    removed = np.float32(-np.inf)

    def __init__(self, iou_threshold: float) -> None:
        self._threshold = np.array([iou_threshold], np.float32)

    def __call__(self, scores: FloatArray, iou: FloatArray) -> None:
        scores[iou > self._threshold] = self.removed


class _Group:
    """Boxes that suppress each other.

    Args:
        ends: (4, n), see `_intervals`.
        areas: (n,).
        scores: (n,), changed in place.
        effect: changes scores by their overlap with a box that was selected.
    """

    def __init__(self, ends: FloatArray, areas: FloatArray, scores: FloatArray, effect: _Soft | _Hard) -> None:
        self._ends, self._areas, self._scores, self._effect = ends, areas, scores, effect
        common = np.empty_like(ends, order="C")
        self._common, self._lengths, self._upper = common, common[:2], common[2:]
        self._overlap, self._height, self._union = common[0], common[1], common[2]

    def select(self, best: int) -> None:
        """Remove the box at `best`, and let it suppress the others."""
        np.minimum(self._ends, self._ends[:, best, None], out=self._common)
        np.add(self._lengths, self._upper, out=self._lengths)
        np.maximum(self._lengths, ZERO, out=self._lengths)
        np.multiply(self._overlap, self._height, out=self._overlap)
        np.add(self._areas, self._areas[best, None], out=self._union)
        np.subtract(self._union, self._overlap, out=self._union)
        self._effect(self._scores, np.divide(self._overlap, self._union, out=self._overlap))
        self._scores[best] = self._effect.removed


def _intervals(boxes: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return negative lower and upper ends of boxes (4, N), and their areas (N,).

    The minimum of two boxes' ends is their intersection. A box without a positive finite area becomes a point of
    infinite area: its intersection with anything over the union is 0, as TensorFlow defines it.
    """
    columns = np.ascontiguousarray(boxes.T)
    low, high = np.minimum(columns[:2], columns[2:]), np.maximum(columns[:2], columns[2:])
    areas = (high[0] - low[0]) * (high[1] - low[1])
    proper = (areas > 0) & (areas < np.inf)
    ends = np.where(proper, np.concatenate((-low, high)), np.float32(0))
    return ends, np.where(proper, areas, np.float32(np.inf))
