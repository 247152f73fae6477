"""The candidates for NMS of one image, in NumPy, straight from the network's outputs.

All logits are read once, for the maximum of every anchor over the classes; then only the rows of the anchors that
matter are gathered. The outputs may have any memory format.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from effdet_torch.errors import NonFiniteOutputError

FloatArray = NDArray[np.float32]
IndexArray = NDArray[np.intp]


class Candidates(NamedTuple):
    """What goes into NMS.

    Attributes:
        anchors: (R,) indices, ascending.
        rows: (N,) positions in `anchors`.
        classes: (N,) class channels.
        logits: (N,).
        floor: no pair, or anchor, that is left out has a higher logit.
    """

    anchors: IndexArray
    rows: IndexArray
    classes: IndexArray
    logits: FloatArray
    floor: float


def maxima(class_logits: Sequence[FloatArray], num_classes: int) -> FloatArray:
    """Return the highest logit of every anchor.

    Args:
        class_logits: per level (anchors * num_classes, H_l, W_l).
        num_classes: of the model.

    Returns:
        (A,) in the order of the anchors.

    Raises:
        NonFiniteOutputError: A logit is infinite, all of an anchor are NaN, or all of the image are -inf. Single ones
            may be -inf, a score of 0. NaN of single classes is seen by `require_finite` and among the candidates.
    """
    levels = [_by_anchor(level, num_classes) for level in class_logits]
    # Of a NaN and x, fmax is x. The maximum would be NaN, but takes 4 times as long.
    highest = np.concatenate([np.fmax.reduce(level, axis=1).T.ravel() for level in levels])
    if not -np.inf < highest.max() < np.inf:  # of a NaN and x, this is NaN
        raise NonFiniteOutputError(0)
    return highest


def require_finite(levels: Sequence[FloatArray]) -> None:
    """Refuse outputs with channels that are NaN or infinite everywhere, as NaN in a layer's last weights makes them.

    Args:
        levels: per level (C, H_l, W_l), of which one position is looked at; -inf may be a logit.

    Raises:
        NonFiniteOutputError: There are such channels.
    """
    if not all(level[:, 0, 0].max() < np.inf for level in levels):
        raise NonFiniteOutputError(0)


def top_k(
    class_logits: Sequence[FloatArray], highest: FloatArray, num_classes: int, count: int, lowest: float
) -> Candidates:
    """Take the `count` highest of all (anchor, class) pairs, in the order of (class, anchor).

    Among equal logits the lower (anchor, class) is taken, as by TensorFlow's `top_k`. In the order of the result, NMS
    treats equal scores of different classes as the official merge of the classes does.

    Args:
        class_logits: see `maxima`.
        highest: (A,), the maxima.
        num_classes: of the model.
        count: how many to take.
        lowest: pairs below this logit do not matter.
    """
    # The best pairs lie among as many anchors with the best maxima: each of these contributes a pair that is as good.
    anchors, floor = _highest(highest, count, lowest)
    logits = _logits(class_logits, anchors, num_classes).ravel()
    pairs = np.flatnonzero(logits >= floor)
    taken, floor = _highest(logits[pairs], count, floor)
    rows, classes = np.divmod(pairs[taken], num_classes)
    classes, rows = np.divmod(np.sort(classes * len(anchors) + rows), max(1, len(anchors)))
    return Candidates(anchors, rows, classes, logits[rows * num_classes + classes], floor)


def best_class(
    class_logits: Sequence[FloatArray], highest: FloatArray, num_classes: int, count: int, lowest: float
) -> Candidates:
    """Take the `count` anchors with the highest maxima, each with its best class; among equal ones the lowest class.

    The arguments are those of `top_k`.
    """
    anchors, floor = _highest(highest, count, lowest)
    logits, rows = _logits(class_logits, anchors, num_classes), np.arange(len(anchors))
    classes = logits.argmax(axis=1)
    return Candidates(anchors, rows, classes, logits[rows, classes], floor)


def _logits(class_logits: Sequence[FloatArray], anchors: IndexArray, num_classes: int) -> FloatArray:
    """Return the logits of anchors (N, C).

    Raises:
        NonFiniteOutputError: There is NaN among them.
    """
    logits = gather(class_logits, anchors, num_classes)
    if np.isnan(logits.max(initial=-np.inf)):
        raise NonFiniteOutputError(0)
    return logits


def gather(levels: Sequence[FloatArray], anchors: IndexArray, num_values: int) -> FloatArray:
    """Return the values of anchors.

    Args:
        levels: per level (anchors * num_values, H_l, W_l).
        anchors: (N,) indices into all A, ascending.
        num_values: per anchor.

    Returns:
        (N, num_values).
    """
    views = [_by_anchor(level, num_values) for level in levels]
    stops = np.cumsum([view.shape[0] * view.shape[2] for view in views])
    parts, start = [], 0
    for view, stop, chosen in zip(views, stops, np.split(anchors, np.searchsorted(anchors, stops[:-1])), strict=True):
        position, anchor = np.divmod(chosen - start, view.shape[0])
        parts.append(view[anchor, :, position])
        start = stop
    return np.concatenate(parts)


def _by_anchor(level: FloatArray, num_values: int) -> FloatArray:
    """Return the view (anchors per location, num_values, locations) of a level."""
    return level.reshape(-1, num_values, level.shape[1] * level.shape[2])


def _highest(values: FloatArray, count: int, lowest: float) -> tuple[IndexArray, float]:
    """Return where the `count` highest of values (N,) are, ascending, and a value that no other one exceeds.

    Among equal values the lower index is taken; values below `lowest` are not.
    """
    place = len(values) - count
    least = lowest if place < 0 else max(lowest, float(np.partition(values, place)[place]))
    indices = np.flatnonzero(values >= least)
    if len(indices) > count:
        taken = values[indices] > least
        equal = np.flatnonzero(~taken)
        taken[equal[: count - np.count_nonzero(taken)]] = True
        indices = indices[taken]
    return indices, least
