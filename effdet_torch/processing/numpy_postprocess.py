"""Network output to detections on the CPU, image by image, in NumPy: candidates, boxes, NMS, original pixels.

Scores only decay, so NMS over the best candidates is exact as long as everything that it selects scores more than any
candidate that is left out. It starts with few of them; where that does not suffice, with more.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from effdet_torch.errors import NonFiniteOutputError
from effdet_torch.geometry.anchors import require_anchors
from effdet_torch.geometry.numpy_boxes import clip_boxes_xyxy, decode_boxes_xyxy
from effdet_torch.geometry.numpy_nms import non_max_suppression
from effdet_torch.processing.numpy_candidates import (
    Candidates,
    best_class,
    gather,
    maxima,
    require_finite,
    top_k,
)
from effdet_torch.processing.profiles import CLASS_OFFSET, Profile, get_profile

FloatArray = NDArray[np.float32]

FIRST_CANDIDATES = 1536  # enough for 100 detections in most images
ROOM = 8  # candidates at least, for every detection that may be made
GROWTH = 4
LOGIT_MARGIN = 1e-3  # many roundings of a score

CANDIDATES: Mapping[str, Callable[..., Candidates]] = {"top_k": top_k, "best_class": best_class}


class Detections(NamedTuple):
    """Detections of one image, best first.

    Attributes:
        boxes_xyxy: (N, 4) float32 in pixels of the original image.
        scores: (N,) float32; decayed if the profile is soft.
        classes: (N,) int64, channel + 1 as in TensorFlow's output: COCO category ids for the official models.
    """

    boxes_xyxy: FloatArray
    scores: FloatArray
    classes: NDArray[np.int64]


def postprocess(
    class_logits: Sequence[FloatArray],
    box_deltas: Sequence[FloatArray],
    anchors_yxyx: FloatArray,
    image_scale: float | FloatArray,
    image_size: tuple[int, int],
    profile: str | Profile = "official-eval",
) -> Detections:
    """Turn the outputs of the network for one image into detections.

    Args:
        class_logits: per level (anchors * num_classes, H_l, W_l); channel = anchor * num_classes + class.
        box_deltas: per level (anchors * 4, H_l, W_l); order (ty, tx, th, tw).
        anchors_yxyx: (A, 4), see `anchors_yxyx` of `geometry.anchors`.
        image_scale: from network input to original pixels, as `preprocess` returns it: a number, or (4,).
        image_size: (height, width) of the network input, for profiles that clip.
        profile: a name in `PROFILES`, or your own.

    Raises:
        ConfigError: The profile does not exist, or the anchors do not fit the outputs.
        NonFiniteOutputError: There is NaN or infinity among the outputs that decide; it is for the image 0.

    Source: EfficientDet official code, `postprocess_per_class` and `postprocess_global`.
    """
    profile = get_profile(profile)
    require_anchors(sum(level.size for level in box_deltas) // 4, len(anchors_yxyx))
    num_classes = 4 * class_logits[0].shape[0] // box_deltas[0].shape[0]
    require_finite([*class_logits, *box_deltas])
    highest = maxima(class_logits, num_classes)
    limit = profile.max_candidates if profile.candidates == "top_k" else len(highest)
    choose, lowest = CANDIDATES[profile.candidates], _lowest_logit(profile.score_threshold)
    window = _window(image_scale, image_size)
    for count in _rounds(max(FIRST_CANDIDATES, ROOM * profile.max_detections), limit):
        chosen = choose(class_logits, highest, num_classes, count, lowest)
        deltas = gather(box_deltas, chosen.anchors, 4)
        if not np.isfinite(deltas).all():
            raise NonFiniteOutputError(0)
        boxes_xyxy = decode_boxes_xyxy(deltas, anchors_yxyx[chosen.anchors])[chosen.rows]
        least = -math.inf if count == limit else float(_sigmoid(np.float32(chosen.floor)))
        indices, scores = _suppress(boxes_xyxy, chosen, max(least, profile.score_threshold), profile, window)
        if len(indices) == profile.max_detections or least <= profile.score_threshold:
            break
    boxes_xyxy, classes = boxes_xyxy[indices], chosen.classes[indices] + CLASS_OFFSET
    if profile.clip or profile.to_image:
        boxes_xyxy = clip_boxes_xyxy(boxes_xyxy, window if profile.to_image else image_size)
    return Detections(boxes_xyxy * box_scale(image_scale), scores, classes)


def box_scale(image_scale: float | FloatArray) -> FloatArray:
    """Return what corners (x0, y0, x1, y1) are multiplied by, for an image scale as `preprocess` returns it."""
    scale = np.asarray(image_scale, np.float32)
    return np.tile(scale[:2], 2) if scale.ndim else scale


def _window(image_scale: float | FloatArray, image_size: tuple[int, int]) -> tuple[float, float]:
    """Return height and width of the image in the network input; of all of it if they are not known."""
    scale = np.asarray(image_scale)
    return (float(scale[3]), float(scale[2])) if scale.ndim else image_size


def _rounds(first: int, limit: int) -> Iterator[int]:
    """Yield growing numbers of candidates, the last one `limit`."""
    while first < limit:
        yield first
        first *= GROWTH
    yield limit


def _suppress(
    boxes_xyxy: FloatArray,
    candidates: Candidates,
    score_threshold: float,
    profile: Profile,
    window: tuple[float, float],
) -> tuple[NDArray[np.int64], FloatArray]:
    """Return the indices of the detections, best first, and their scores."""
    classes = candidates.classes if profile.per_class else None
    scores, count = _sigmoid(candidates.logits), profile.max_detections
    while True:
        indices, selected = non_max_suppression(
            boxes_xyxy, scores, classes, count, profile.iou_threshold, score_threshold, profile.sigma / 2
        )
        if not profile.selects_further:
            return indices, selected
        places = np.flatnonzero(_counts(boxes_xyxy[indices], candidates.classes[indices], profile, window))
        if len(places) >= profile.max_detections or len(indices) < count:
            places = places[: profile.max_detections]
            return indices[places], selected[places]
        count *= GROWTH


def _counts(
    boxes_xyxy: FloatArray, classes: NDArray[np.integer[Any]], profile: Profile, window: tuple[float, float]
) -> NDArray[np.bool_]:
    """Return which of the selected boxes (N, 4), best first, are detections of a profile that selects further."""
    counts = np.ones(len(classes), np.bool_)
    if profile.max_per_class:
        for number in np.unique(classes):
            counts[np.flatnonzero(classes == number)[profile.max_per_class :]] = False
    if profile.to_image:
        corners = clip_boxes_xyxy(boxes_xyxy, window)
        counts &= np.prod(corners[:, 2:] - corners[:, :2], axis=1) != 0
    return counts


def _sigmoid(logits: FloatArray | np.float32) -> FloatArray:
    """Return scores, computed in float64: a less exact sigmoid makes ties where TensorFlow has none."""
    with np.errstate(over="ignore"):
        scores: FloatArray = (1 / (1 + np.exp(-logits.astype(np.float64)))).astype(np.float32)
    return scores


def _lowest_logit(score_threshold: float) -> float:
    """Return a logit whose score is not above the threshold; all logits below it can be left out."""
    if not 0 < score_threshold < 1:
        return -math.inf if score_threshold <= 0 else math.inf
    return math.log(score_threshold / (1 - score_threshold)) - LOGIT_MARGIN
