"""Whether detections that differ from the expected ones come from the same boxes and scores all the same.

Where two scores, or an overlap and the threshold, are equal up to rounding, one runtime's NMS may choose otherwise than
another's, and everything behind that choice differs. So the NMS is done again, in the order in which the file chose:
every box that it chose must be one of the model's, not suppressed before, and as good as the best of the others.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from effdet_torch.processing.profiles import CLASS_OFFSET, Profile

Array = NDArray[Any]

EQUAL_IOUS = 1e-3  # an overlap of small boxes is a ratio of small differences
# How much better a box may be that was left for later: what two scores that are wrong by as much can differ, and more.
ORDER = 4
ROUNDING = 1e-7  # of a float32 score
SIGMOID_ROUNDING = 5e-7  # of a score: runtimes approximate the exponential
BOX_ROUNDING = 2e-6  # of the largest coordinate: some steps in float32


class Error(NamedTuple):
    """The largest error of all, measured by its limit: its size, and the limit."""

    size: float
    limit: float

    @property
    def share(self) -> float:
        """Of the limit."""
        return self.size / self.limit


class Limits(NamedTuple):
    """How far what the file chose may be from what the model predicts.

    Attributes:
        score: of any score.
        logit: of a logit; a score s may be wrong by s (1 - s) times as much.
        boxes: (A,) of the coordinates of every anchor's box, in pixels, see `box_limits`.
        side: the longer side of the image, in pixels.
    """

    score: float
    logit: float
    boxes: Array
    side: int

    def of_scores(self, scores: Array | float) -> Any:
        """Return the limits of scores of any shape."""
        return np.minimum(scores * (1 - scores) * self.logit + SIGMOID_ROUNDING, self.score)


def box_limits(corners: Array, shown: Array, anchors_yxyx: Array, delta: float, most: float, side: int) -> Array:
    """Return by how much the coordinates of boxes (..., A, 4) may be wrong, (..., A) in pixels.

    Args:
        corners: of all anchors, as the NMS sees them.
        shown: as they come out: clipped, if the profile clips.
        anchors_yxyx: (A, 4).
        delta: limit of a box delta, which moves a box by as much of its anchor's size, or enlarges it.
        most: limit of any coordinate, in units of `side`, or of the box's longer side if that is larger.
        side: the longer side of the image, in pixels.
    """
    sizes, anchors, visible = (_longer_sides(boxes) for boxes in (corners, anchors_yxyx, shown))
    rounding = BOX_ROUNDING * np.maximum(np.abs(corners).max(axis=-1), side)
    limits: Array = np.minimum(delta * (anchors + sizes / 2) + rounding, most * np.maximum(visible, side))
    return limits


class Choice(NamedTuple):
    """What the NMS of a file shows when it is done again.

    Attributes:
        score: the largest error of a score, measured by its limit.
        box: the largest error of a coordinate, measured by its limit; both in units of the image's longer side.
        score_error: the largest error of a score.
        margin: how much more a box scored, at most, than the one that the file chose before it.
    """

    score: Error
    box: Error
    score_error: float
    margin: float

    @property
    def limit(self) -> float:
        """Up to which margin every box was the best one, as far as its score can be known."""
        return _order_limit(self.score_error)


IMPOSSIBLE = Choice(Error(np.inf, 1.0), Error(np.inf, 1.0), np.inf, np.inf)


class _Model(NamedTuple):
    """What the model predicts for one image: `corners`, `shown` (A, 4), `scores` (A, C); and how it is detected."""

    corners: Array
    shown: Array
    scores: Array
    profile: Profile
    limits: Limits


class _Match(NamedTuple):
    """What a detection is: its row among the candidates, its class, and the errors of the nearest box.

    `anchors` are of all boxes that it may be: clipped, different ones look alike.
    """

    row: int
    channel: int
    anchors: Array
    score: Error
    box: Error


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
    model = _Model(corners, shown, scores, profile, limits)
    candidates, cut = _candidates(model)
    highest = candidates.copy()
    lowest = candidates.copy() if profile.sigma > 0 else highest  # hard NMS lowers no score
    matches: list[_Match] = []
    taken: dict[tuple[int, int], int] = {}
    for box, score, number in zip(*found, strict=True):
        match = _match(model, lowest, highest, box, float(score), int(number) - CLASS_OFFSET)
        if match is None:
            return IMPOSSIBLE
        matches.append(match)
        if not _take(len(matches) - 1, matches, taken, set()):  # more often than there are such boxes
            return IMPOSSIBLE
        if len(match.anchors) == 1:
            highest[match.row, match.anchors] = lowest[match.row, match.anchors] = -np.inf
        _suppress(model, highest, match, EQUAL_IOUS)
        if profile.sigma > 0:
            _suppress(model, lowest, match, -EQUAL_IOUS)
    score_error = max((match.score.size for match in matches), default=0.0)
    # Any of those that score as much as the last candidate may have been left out, so none is a rival.
    candidates[candidates <= cut + _order_limit(score_error)] = -np.inf
    margin = _margin(model, candidates, matches, found[1])
    score, box = _worst(match.score for match in matches), _worst(match.box for match in matches)
    return Choice(score, box, score_error, margin)


def _take(index: int, matches: Sequence[_Match], taken: dict[tuple[int, int], int], seen: set[tuple[int, int]]) -> bool:
    """Give a detection a box of its own in `taken`, for which others may get another; or return that there is none."""
    for place in ((matches[index].row, anchor) for anchor in matches[index].anchors.tolist()):
        if place not in seen:
            seen.add(place)
            if place not in taken or _take(taken[place], matches, taken, seen):
                taken[place] = index
                return True
    return False


def _worst(errors: Iterable[Error]) -> Error:
    return max(errors, key=lambda error: error.share, default=Error(0.0, 1.0))


def _order_limit(score_error: float) -> float:
    return ORDER * score_error + ROUNDING


def _candidates(model: _Model) -> tuple[Array, float]:
    """Return the scores of what may take part in the NMS, -inf for the others, and the lowest score that does.

    They are (C, A) for (anchor, class) pairs, (1, A) for anchors with their best class. Pairs that score as much as the
    last candidate are all there: which of them take part, rounding decides.
    """
    if model.profile.candidates == "best_class":
        return model.scores.max(axis=1)[None].astype(np.float64), -np.inf
    values: Array = np.array(model.scores.T, np.float64, order="C")
    if (others := values.size - model.profile.max_candidates) <= 0:
        return values, -np.inf
    cut = float(np.partition(values, others, axis=None)[others])
    values[values < cut - 2 * model.limits.of_scores(cut)] = -np.inf
    return values, cut


def _match(model: _Model, lowest: Array, highest: Array, box: Array, score: float, channel: int) -> _Match | None:
    """Return which of the boxes with current scores between these bounds a detection is, if it is one."""
    if not 0 <= channel < model.scores.shape[1]:
        return None
    row, behind = channel, np.zeros(len(model.scores))
    fits = np.ones(len(model.scores), np.bool_)
    if model.profile.candidates == "best_class":  # of two classes that score the same, either may be the best one
        row, best = 0, model.scores.max(axis=1).astype(np.float64)
        behind = best - model.scores[:, channel]
        fits = behind <= 2 * model.limits.of_scores(best)
    limit = float(model.limits.of_scores(score))
    score_errors = np.maximum(np.maximum(lowest[row] - score, score - highest[row]), 0) + behind
    box_errors = np.abs(model.shown - box).max(axis=1)
    fits &= (score_errors <= limit) & (box_errors <= model.limits.boxes)
    if not fits.any():
        return None
    nearest = int(np.where(fits, score_errors / limit + box_errors / model.limits.boxes, np.inf).argmin())
    sizes = (float(values[nearest]) / model.limits.side for values in (box_errors, model.limits.boxes))
    error = Error(float(score_errors[nearest]), limit)
    return _Match(row, channel, np.flatnonzero(fits), error, Error(*sizes))


def _margin(model: _Model, rivals: Array, matches: Sequence[_Match], scores: Array) -> float:
    """Return by how much a rival was better, at most, than what was chosen before it, or than nothing."""
    profile, margin = model.profile, 0.0
    for match, score in zip(matches, scores, strict=True):
        rivals[match.row, match.anchors] = -np.inf
        margin = max(margin, float(rivals.max() - score), profile.score_threshold - float(score))
        _suppress(model, rivals, match, -EQUAL_IOUS)
    if len(matches) < profile.max_detections and (best := float(rivals.max())) > -np.inf:
        margin = max(margin, best - profile.score_threshold)
    return margin


def _suppress(model: _Model, values: Array, chosen: _Match, slack: float) -> None:
    """Lower the scores of boxes that overlap a chosen one: by the least with `slack`, by the most with -`slack`."""
    profile, extreme = model.profile, np.minimum if slack > 0 else np.maximum
    overlap = _iou(model.corners, model.corners[chosen.anchors[0]])
    for anchor in chosen.anchors[1:]:
        overlap = extreme(overlap, _iou(model.corners, model.corners[anchor]))
    overlap = np.where(overlap > 0, np.clip(overlap - slack, 0, 1), 0)
    if profile.per_class and profile.candidates == "best_class":
        overlap = np.where(model.scores.argmax(axis=1) == chosen.channel, overlap, 0)
    rivals = values[chosen.row : chosen.row + 1] if profile.per_class else values
    if profile.sigma > 0:
        rivals *= np.exp(-np.square(overlap) / profile.sigma)
    else:
        rivals[:, overlap > profile.iou_threshold] = -np.inf


def _longer_sides(boxes: Array) -> Array:
    sides: Array = (boxes[..., 2:] - boxes[..., :2]).max(axis=-1)
    return sides


def _iou(boxes: Array, one: Array) -> Array:
    """Return the overlap of boxes (N, 4) with one of them, (N,); 0 for those without an area."""
    low, high = np.maximum(boxes[:, :2], one[:2]), np.minimum(boxes[:, 2:], one[2:])
    common = np.maximum(high - low, 0).prod(axis=1)
    areas, area = np.maximum(boxes[:, 2:] - boxes[:, :2], 0).prod(axis=1), np.maximum(one[2:] - one[:2], 0).prod()
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.nan_to_num(common / (areas + area - common), nan=0.0))
