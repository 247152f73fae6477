"""Whether detections that differ from the expected ones come from the same boxes and scores all the same.

Where two scores, or an overlap and the threshold, are equal up to rounding, one runtime's NMS may choose otherwise than
another's, and everything behind that choice differs. So the NMS is done again, in the order in which the file chose:
every box that it chose must be one of the model's, not suppressed before, and as good as the best of the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from effdet_torch.processing.profiles import CLASS_OFFSET, Profile

Array = NDArray[Any]

EQUAL_IOUS = 1e-3  # an overlap of small boxes is a ratio of small differences
# How much better a box may be that was left for later: what two scores that are wrong by as much can differ, and more.
ORDER = 4
ROUNDING = 1e-7  # of a float32 score


class Limits(NamedTuple):
    """How far what the file chose may be from what the model predicts.

    Attributes:
        score: of a score.
        box: of a coordinate, in units of `side`, or of the box's longer side if that is larger.
        side: the longer side of the image, in pixels.
    """

    score: float
    box: float
    side: int


class Choice(NamedTuple):
    """What the NMS of a file shows when it is done again.

    Attributes:
        score_error: the largest error of a score.
        margin: how much more a box scored, at most, than the one that the file chose before it.
    """

    score_error: float
    margin: float

    @property
    def limit(self) -> float:
        """Up to which margin every box was the best one, as far as its score can be known."""
        return ORDER * self.score_error + ROUNDING


IMPOSSIBLE = Choice(float("inf"), float("inf"))


class _Boxes(NamedTuple):
    """Candidates of one image: `corners` (N, 4), `shown` (N, 4), as they come out, `classes` (N,), `scores` (N,)."""

    corners: Array
    shown: Array
    classes: Array
    scores: Array
    all_scores: Array  # (N, C), of their anchors


def replayed(
    found: Sequence[Array], corners: Array, shown: Array, scores: Array, profile: Profile, limits: Limits
) -> Choice:
    """Return how well the detections of one image fit the model's outputs, in the order in which they were chosen.

    Args:
        found: boxes (M, 4), scores (M,) and classes (M,) counted from 1, all of them detections.
        corners: (A, 4), of all anchors, as the NMS sees them.
        shown: (A, 4), as they come out: clipped, if the profile clips.
        scores: (A, C), of all anchors.
        profile: how they were made, which must not select further.
        limits: of single boxes and scores.

    Returns:
        `IMPOSSIBLE` where a detection is none of the model's, or had been suppressed.
    """
    boxes = _candidates(corners, shown, scores, profile)
    most, least = boxes.scores.copy(), boxes.scores.copy()  # if overlaps were a little smaller, or larger
    score_error = margin = 0.0
    for box, score, number in zip(*found, strict=True):
        error = _errors(boxes, most, box, score, number - CLASS_OFFSET, profile, limits)
        index = int(error.argmin())
        if not error[index] <= limits.score:
            return IMPOSSIBLE
        score_error = max(score_error, float(error[index]))
        most[index] = least[index] = -np.inf
        margin = max(margin, float(least.max() - score))
        rivals = boxes.classes == number - CLASS_OFFSET if profile.per_class else np.ones(len(most), np.bool_)
        overlap = np.where(rivals, _iou(boxes.corners, boxes.corners[index]), 0)
        if profile.sigma > 0:
            decay = np.exp(-np.square(overlap) / profile.sigma)
            most, least = most * decay, least * decay
        else:
            most[overlap > profile.iou_threshold + EQUAL_IOUS] = -np.inf
            least[overlap > profile.iou_threshold - EQUAL_IOUS] = -np.inf
    if len(found[1]) < profile.max_detections:
        margin = max(margin, float(least.max() - profile.score_threshold))
    return Choice(score_error, margin)


def _candidates(corners: Array, shown: Array, scores: Array, profile: Profile) -> _Boxes:
    if profile.candidates == "best_class":
        classes = scores.argmax(axis=1)
        return _Boxes(corners, shown, classes, scores.max(axis=1).astype(np.float64), scores)
    count = min(profile.max_candidates, scores.size)
    pairs = np.argpartition(-scores, count - 1, axis=None)[:count]
    anchors, classes = np.divmod(pairs, scores.shape[1])
    chosen = scores[anchors, classes].astype(np.float64)
    return _Boxes(corners[anchors], shown[anchors], classes, chosen, scores[anchors])


def _errors(
    boxes: _Boxes, current: Array, box: Array, score: float, channel: int, profile: Profile, limits: Limits
) -> Array:
    """Return how far the current score (N,) of every candidate is from a detection's; infinite if it is another box."""
    if not 0 <= channel < boxes.all_scores.shape[1]:
        return np.full(len(current), np.inf)
    # Of two classes that score the same, either may be an anchor's best one.
    behind = boxes.scores - boxes.all_scores[:, channel]
    is_class = behind <= limits.score if profile.candidates == "best_class" else boxes.classes == channel
    unit = max(limits.side, float(box[2] - box[0]), float(box[3] - box[1]))
    is_box = np.abs(boxes.shown - box).max(axis=1) <= limits.box * unit
    errors = np.abs(current - score) + (np.maximum(behind, 0) if profile.candidates == "best_class" else 0)
    return np.where(is_class & is_box, errors, np.inf)


def _iou(boxes: Array, one: Array) -> Array:
    """Return the overlap of boxes (N, 4) with one of them, (N,); 0 for those without an area."""
    low, high = np.maximum(boxes[:, :2], one[:2]), np.minimum(boxes[:, 2:], one[2:])
    common = np.maximum(high - low, 0).prod(axis=1)
    areas, area = np.maximum(boxes[:, 2:] - boxes[:, :2], 0).prod(axis=1), np.maximum(one[2:] - one[:2], 0).prod()
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.nan_to_num(common / (areas + area - common), nan=0.0))
