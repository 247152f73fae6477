"""Which object each detection found, whatever its class: what a confusion matrix and the mistakes in an image count.

AP asks for every class alone. Here the classes meet: in each image the detections take their objects in the order of
their scores, each the free one that it overlaps most, and only then are the classes compared.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from effdet_torch.config import SCORE_THRESHOLD
from effdet_torch.metrics.columns import Boxes, Columns, Floats, Integers

MIN_IOU = 0.5
NONE = -1  # no counterpart
LEFT_OUT = -2  # neither right nor wrong: below the score, or a crowd, or a detection on one

# What can become of an object or a detection.
RIGHT, WRONG_CLASS, MISSED, FALSE = "right", "wrong class", "missed", "false"
NOT_COUNTED, BELOW_SCORE = "not counted", "below score"


class Judged(NamedTuple):
    """One side, and what became of it.

    Attributes:
        boxes: N objects or detections.
        rows: (N,), row of each one's counterpart on the other side, `NONE` or `LEFT_OUT`.
        outcomes: (N,), "right", "wrong class", "missed" (object), "false" (detection), "not counted" or "below score".
        categories: (N,), category id of the counterpart; `NONE` without one.
    """

    boxes: Boxes
    rows: Integers
    outcomes: NDArray[np.str_]
    categories: Integers


@dataclass(frozen=True)
class Matches:
    """Objects and detections, one to one.

    Attributes:
        columns: both sides, N objects and D detections of K categories.
        truth_of_found: (D,), for every detection the row of its object, `NONE` or `LEFT_OUT`.
        min_score: of the detections that count.
    """

    columns: Columns
    truth_of_found: Integers
    min_score: float

    @cached_property
    def truth(self) -> Judged:
        """The objects."""
        rows = np.where(self.columns.truth.crowds, LEFT_OUT, NONE)
        matched = np.flatnonzero(self.truth_of_found >= 0)
        rows[self.truth_of_found[matched]] = matched
        return _judged(self.columns.truth, self.columns.found, rows, MISSED)

    @cached_property
    def found(self) -> Judged:
        """The detections."""
        judged = _judged(self.columns.found, self.columns.truth, self.truth_of_found, FALSE)
        judged.outcomes[judged.boxes.scores < self.min_score] = BELOW_SCORE
        return judged

    @cached_property
    def confusion(self) -> Integers:
        """(K + 1, K + 1), how many objects of the row's category were found as the column's.

        Categories by ascending id; the last column holds what was missed, the last row what is not an object.
        """
        ids, side = np.array(self.columns.category_ids), len(self.columns.category_ids) + 1
        truth, false = self.truth, self.found.outcomes == FALSE
        objects = truth.rows != LEFT_OUT
        as_found = np.where(truth.rows >= 0, np.searchsorted(ids, truth.categories), side - 1)
        pairs = np.searchsorted(ids, truth.boxes.categories)[objects] * side + as_found[objects]
        alone = (side - 1) * side + np.searchsorted(ids, self.found.boxes.categories[false])
        counts = np.bincount(np.concatenate((pairs, alone)), minlength=side * side)
        return counts.reshape(side, side)

    @cached_property
    def by_image(self) -> Integers:
        """(images, 4), in every image: objects that are right, wrong class, missed; and false detections."""
        parts = ((self.truth, RIGHT), (self.truth, WRONG_CLASS), (self.truth, MISSED), (self.found, FALSE))
        counts = [
            np.bincount(judged.boxes.images[judged.outcomes == outcome] - 1, minlength=self.columns.image_count)
            for judged, outcome in parts
        ]
        return np.stack(counts, axis=1)


def match_boxes(
    columns: Columns, min_score: float = SCORE_THRESHOLD, min_iou: float = MIN_IOU, by_class: bool = False
) -> Matches:
    """Match the detections of at least a score with objects.

    A detection that finds no object but lies on a crowd of its class by at least `min_iou` of its own area is left out,
    as in COCO's evaluation.

    Args:
        columns: objects and detections.
        min_score: detections below it are left out.
        min_iou: least intersection over union of a match.
        by_class: whether a detection can only take an object of its class, as in COCO's evaluation.
    """
    truth, found = columns.truth, columns.found
    truth_of_found = np.full(len(found.images), LEFT_OUT)
    for truth_rows, found_rows in _by_image(columns, np.flatnonzero(found.scores >= min_score)):
        crowds = truth.crowds[truth_rows]
        overlaps = _overlaps(found.boxes_xywh[found_rows], truth.boxes_xywh[truth_rows], crowds)
        overlaps[~(overlaps >= min_iou)] = 0.0  # NaN, of boxes without end, as well
        same_class = found.categories[found_rows][:, None] == truth.categories[truth_rows]
        on_crowd = (overlaps * same_class)[:, crowds].any(axis=1)
        overlaps[:, crowds] = 0.0
        if by_class:
            overlaps *= same_class
        truth_of_found[found_rows[~on_crowd]] = NONE
        for row, overlap in zip(found_rows, overlaps, strict=True):
            if overlap.any():
                best = overlap.argmax()
                truth_of_found[row] = truth_rows[best]
                overlaps[:, best] = 0.0  # taken
    return Matches(columns, truth_of_found, min_score)


def _overlaps(found_xywh: Floats, truth_xywh: Floats, crowds: NDArray[np.bool_]) -> Floats:
    """Return intersection over union, (D, N); for a crowd over the detection's own area, as in COCO's evaluation."""
    from pycocotools.mask import iou

    if not len(truth_xywh):  # pycocotools returns a list then
        return np.zeros((len(found_xywh), 0))
    found: Floats = iou(found_xywh, truth_xywh, crowds.astype(np.uint8))
    return found


def _by_image(columns: Columns, found_rows: Integers) -> Iterator[tuple[Integers, Integers]]:
    """Yield the rows of every image with detections: its objects, and its detections, best first."""
    found, truth = columns.found, columns.truth
    found_rows = found_rows[np.lexsort((-found.scores[found_rows], found.images[found_rows]))]
    truth_rows = np.argsort(truth.images, kind="stable")
    numbers = np.arange(1, columns.image_count + 2)
    truth_starts = np.searchsorted(truth.images[truth_rows], numbers)
    found_starts = np.searchsorted(found.images[found_rows], numbers)
    for n in np.flatnonzero(np.diff(found_starts)):
        yield truth_rows[truth_starts[n] : truth_starts[n + 1]], found_rows[found_starts[n] : found_starts[n + 1]]


def _judged(boxes: Boxes, others: Boxes, rows: Integers, alone: str) -> Judged:
    matched = rows >= 0
    categories = np.full(len(rows), NONE)
    categories[matched] = others.categories[rows[matched]]
    outcomes = np.select(
        (matched & (categories == boxes.categories), matched, rows == NONE), (RIGHT, WRONG_CLASS, alone), NOT_COUNTED
    )
    return Judged(boxes, rows, outcomes, categories)
