"""Which anchors are trained with which box: an anchor takes its best box, from IoU 0.5; a box forces its best anchor.

Source: EfficientDet official code, `AnchorLabeler`, and the argmax matcher of TensorFlow's object detection.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from effdet_torch.config import EfficientDetConfig
from effdet_torch.geometry.anchors import anchors_yxyx

Floats = NDArray[np.floating[Any]]
Integers = NDArray[np.int64]

POSITIVE_IOU = 0.5
FORCED = 2.0  # above any IoU
# Which anchors are compared is decided in float64, their IoU is float32. What the roundings can change is far smaller
# than these: a part of an IoU, and of a level's stride, which is 4 px at least and 1e5 times the rounding of a corner.
IOU_SLACK, STRIDE_SLACK = 1e-3, 1e-2
# A box that overlaps its best anchor less than this is compared with all anchors: IoUs may be 0, or lose their digits.
LEAST_IOU = 1e-6


class AnchorGrid:
    """The anchors of a config, as grids of equal shapes: which of them overlap a box enough follows from its place.

    Attributes:
        anchors: (A, 4) float32 as (ymin, xmin, ymax, xmax) in pixels of the network input.
    """

    def __init__(self, config: EfficientDetConfig) -> None:
        self.anchors = anchors_yxyx(config)
        per_location = config.anchors_per_location
        sizes = np.array(list(config.feature_sizes().values()))  # (L, 2) rows and columns
        ends = np.cumsum(sizes.prod(axis=1) * per_location)
        starts = np.concatenate(([0], ends[:-1]))
        # Every shape is a level's anchor at its first location: (S,), S = L * anchors per location.
        self._first = (starts[:, None] + np.arange(per_location)).ravel()
        self._per_location = per_location
        self._cells = np.repeat(sizes, per_location, axis=0)  # (S, 2)
        self._strides = np.array(config.image_size) / self._cells
        corners = self.anchors[self._first].astype(np.float64)
        self._centers = (corners[:, :2] + corners[:, 2:]) / 2
        self._sizes = corners[:, 2:] - corners[:, :2]

    @np.errstate(divide="ignore", invalid="ignore", over="ignore")  # boxes without an area, and huge ones
    def match(self, boxes_yxyx: Floats) -> tuple[Integers, Integers]:
        """Return the positive anchors, ascending, and the row of the box of each.

        A box without any overlap forces anchor 0. Where two boxes want an anchor equally, or both force it, the lower
        row gets it; of equally good anchors, a box forces the first.

        Args:
            boxes_yxyx: (N, 4) float32 or float64 in pixels of the network input; IoUs are computed in that type.

        Returns:
            (P,) and (P,) int64.
        """
        if not len(boxes_yxyx):
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        rows, anchors = self._candidates(boxes_yxyx)
        ious = iou(boxes_yxyx[rows], self.anchors[anchors])
        best = np.zeros(len(boxes_yxyx), ious.dtype)
        np.maximum.at(best, rows, ious)
        is_best = ious == best[rows]
        forced = np.full(len(boxes_yxyx), len(self.anchors))
        np.minimum.at(forced, rows[is_best], anchors[is_best])
        ious[anchors == forced[rows]] = FORCED
        positive = ious >= POSITIVE_IOU
        rows, anchors, ious = rows[positive], anchors[positive], ious[positive]
        order = np.lexsort((rows, -ious, anchors))
        matched, first = np.unique(anchors[order], return_index=True)
        return matched, rows[order][first]

    def _candidates(self, boxes_yxyx: Floats) -> tuple[Integers, Integers]:
        """Return pairs (row, anchor) with all that can be positive or best; ascending rows."""
        spans = _Spans.of(boxes_yxyx.astype(np.float64))
        # The IoU with one anchor near the center, of every shape, is what the best anchor has at least.
        nearest = np.rint((spans.centers[:, None] - self._centers) / self._strides).clip(0, self._cells - 1)
        nearby = self._first + self._steps(nearest[..., 0], nearest[..., 1], self._cells[:, 1])
        least = iou(boxes_yxyx[:, None], self.anchors[nearby]).max(axis=1).astype(np.float64)
        low, counts = self._ranges(spans, least)
        pairs = counts.prod(axis=2).ravel()  # (N * S,)
        pair = np.repeat(np.arange(pairs.size), pairs)
        place = np.arange(pair.size) - np.repeat(np.cumsum(pairs) - pairs, pairs)
        (y, x), columns = low.reshape(-1, 2)[pair].T, counts.reshape(-1, 2)[pair, 1]
        row, shape = np.divmod(pair, len(self._first))
        steps = self._steps(y + place // columns, x + place % columns, self._cells[shape, 1])
        return row, self._first[shape] + steps

    def _ranges(self, spans: _Spans, least: Floats) -> tuple[Integers, Integers]:
        """Return the first cell and the number of cells, (N, S, 2) each, whose IoU with a box may be `least` (N,).

        An IoU of t needs an intersection of t / (1 + t) of both areas together. Its width is at most the smaller one,
        which leaves a height that it must have, and so a distance that the centers may have.
        """
        lost = least < LEAST_IOU
        goal = np.where(lost, 1.0, np.minimum(least, POSITIVE_IOU) * (1 - IOU_SLACK))
        areas = spans.sizes.prod(axis=1)[:, None] + self._sizes.prod(axis=1)
        smaller = np.minimum(spans.sizes[:, None], self._sizes)
        needed = (goal / (1 + goal))[:, None] * areas
        reach = (spans.sizes[:, None] + self._sizes) / 2 - needed[..., None] / smaller[..., ::-1]
        reach = np.where(lost[:, None, None], np.inf, reach) / self._strides + STRIDE_SLACK
        center = (spans.centers[:, None] - self._centers) / self._strides
        low = np.ceil(center - reach).clip(0, self._cells)
        high = np.floor(center + reach).clip(-1, self._cells - 1)
        fits = lost[:, None] | (needed <= smaller.prod(axis=2) * (1 + IOU_SLACK))
        counts = np.where(fits[..., None], high - low + 1, 0).clip(0)
        return low.astype(np.int64), counts.astype(np.int64)

    def _steps(self, y: Floats | Integers, x: Floats | Integers, columns: Integers) -> Integers:
        """Return how many anchors lie between the first location of a level and a cell of it."""
        return ((y * columns + x) * self._per_location).astype(np.int64)


class _Spans(NamedTuple):
    """Centers and sizes of boxes, (N, 2) float64 each as (y, x)."""

    centers: Floats
    sizes: Floats

    @classmethod
    def of(cls, boxes_yxyx: Floats) -> _Spans:
        low, high = boxes_yxyx[:, :2], boxes_yxyx[:, 2:]
        return cls((low + high) / 2, high - low)


def iou(boxes_yxyx: Floats, anchors_yxyx: Floats) -> Floats:
    """Return intersection over union of pairs, (...,) of (..., 4), in the arithmetic that decides the official ties."""
    anchors = anchors_yxyx.astype(boxes_yxyx.dtype, copy=False)
    sides = np.minimum(boxes_yxyx[..., 2:], anchors[..., 2:]) - np.maximum(boxes_yxyx[..., :2], anchors[..., :2])
    common = sides.clip(0).prod(axis=-1)
    areas = (boxes_yxyx[..., 2:] - boxes_yxyx[..., :2]).prod(axis=-1)
    union = areas + (anchors[..., 2:] - anchors[..., :2]).prod(axis=-1) - common
    ious: Floats = np.divide(common, union, out=np.zeros_like(common), where=common != 0)
    return ious
