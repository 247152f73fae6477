"""Detections of a file beside those that the model's outputs give."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch

from effdet_torch.engines.document import Precision, by_head
from effdet_torch.engines.file_engine import Array, FileEngine
from effdet_torch.export.comparison.nms_replay import IMPOSSIBLE, Choice, Limits, box_limits, replayed
from effdet_torch.export.comparison.outputs import Compared, limits_of_rms, raw_outputs, rms, wrong_file
from effdet_torch.geometry.anchors import make_anchors_yxyx
from effdet_torch.geometry.boxes import clip_boxes_xyxy, decode_boxes_xyxy
from effdet_torch.network.model import EfficientDet
from effdet_torch.processing.postprocess import flatten_levels, postprocess
from effdet_torch.processing.profiles import Profile

# Detections: of the scores, where 1e-3 is the threshold that one of them may just pass; and of the boxes, in units of
# the longer side of the image, or of the box if that is larger. In float32 they may be wrong by as much as logits and
# deltas, and never by more than this.
SCORE_LIMITS: Mapping[Precision, float] = {"float32": 2e-3, "float16": 5e-2, "int8": 1e-1}
BOX_LIMITS: Mapping[Precision, float] = {"float32": 1e-3, "float16": 5e-2, "int8": 1e-1}
SWAPPED = [1, 0, 3, 2]  # of (xmin, ymin, xmax, ymax)
ORDERING = "the order of detections"


def compare_detections(
    engine: FileEngine, profile: Profile, found: Sequence[Array], pixels: Array, model: EfficientDet
) -> Compared:
    """Compare detections with those of the model's outputs.

    In float32 the NMS is done again, see `replayed`; with fewer bits, scores of the same rank are compared.

    Raises:
        EffdetError: There are more or fewer detections, or images, than expected.
    """
    outputs = raw_outputs(model, pixels)
    logits, deltas = by_head([torch.from_numpy(array) for array in outputs], model.config)
    config, precision = engine.config, engine.interface.precision
    anchors, side = make_anchors_yxyx(config), max(config.image_size)
    wanted = postprocess(logits, deltas, anchors, torch.ones(len(pixels)), config.image_size, profile)
    expected = [tensor.numpy() for tensor in wanted[:4]]
    _require_shapes(engine, found, expected)
    corners = decode_boxes_xyxy(flatten_levels(deltas, 4), anchors)
    shown = (clip_boxes_xyxy(corners, config.image_size) if profile.clip else corners).numpy()
    scores = flatten_levels(logits, config.num_classes).sigmoid().numpy()
    most = SCORE_LIMITS[precision], BOX_LIMITS[precision]
    if precision != "float32" or profile.selects_further:
        errors = {"scores": _score_error(found, expected), "boxes": box_error(found, shown, scores, side, most[0])}
        alike = _alike(scores, profile, lambda _: most[0])
        return Compared(errors, {"scores": most[0], "boxes": most[1]}, alike=alike)
    logit, delta = _head_limits(model, pixels, outputs)
    boxes = box_limits(corners.numpy(), shown, anchors.numpy(), delta, most[1], side)
    choices = []
    for place, count in enumerate(found[3]):
        image = [array[place][: int(count)] for array in found[:3]]
        limits = Limits(most[0], logit, boxes[place], side)
        choices.append(replayed(image, corners[place].numpy(), shown[place], scores[place], profile, limits))
    if IMPOSSIBLE in choices:
        raise wrong_file(engine, "a detection is none of MODEL's: its box, score or class, or NMS had to leave it out")
    otherwise = _chosen_otherwise(found, expected, limits)
    if otherwise and not _chosen_otherwise([found[0][..., SWAPPED], *found[1:]], expected, limits):
        raise wrong_file(engine, "x and y of its boxes are swapped")  # of a square image, anchors are the same then
    return _summary(choices, otherwise, _alike(scores, profile, limits.of_scores))


def _require_shapes(engine: FileEngine, found: Sequence[Array], expected: Sequence[Array]) -> None:
    """Refuse outputs that are not those of all images, or count more detections than there is room for."""
    shapes, right = ([array.shape for array in arrays] for arrays in (found, expected))
    if shapes != right:
        raise wrong_file(engine, f"its outputs have the shapes {shapes}, expected {right}")
    most = expected[1].shape[1]
    if not ((found[3] >= 0) & (found[3] <= most)).all():
        raise wrong_file(engine, f"it counts {found[3].tolist()} detections, expected 0 to {most}")


def _head_limits(model: EfficientDet, pixels: Array, outputs: Sequence[Array]) -> tuple[float, float]:
    """Return the largest limits of a logit and of a box delta."""
    exact = raw_outputs(copy.deepcopy(model).double(), pixels.astype(np.float64))
    pairs = zip(limits_of_rms(outputs, exact, "float32"), exact, strict=True)
    logits, deltas, *_ = by_head([limit * rms(output) for limit, output in pairs], model.config)
    return max(logits), max(deltas)


def _summary(choices: Sequence[Choice], otherwise: int, alike: float | None) -> Compared:
    """Return the worst that was found in any image."""
    score = max((choice.score for choice in choices), key=lambda error: error.share)
    box = max((choice.box for choice in choices), key=lambda error: error.share)
    order = max(choices, key=lambda choice: choice.margin - choice.limit)
    errors = {"scores": score.size, "boxes": box.size, ORDERING: order.margin}
    limits = {"scores": score.limit, "boxes": box.limit, ORDERING: order.limit}
    return Compared(errors, limits, otherwise, order.margin, alike)


def _alike(scores: Array, profile: Profile, limit_of: Callable[[float], float]) -> float | None:
    """Return how much the best scores (B, A, C) of an image differ if nothing tells them apart, as without training."""
    some = min(profile.max_detections + 1, scores[0].size)
    best = np.sort(np.partition(scores.reshape(len(scores), -1), -some, axis=1)[:, -some:], axis=1)
    spreads = [float(row[-1] - row[0]) for row in best if row[-1] - row[0] <= limit_of(float(row[-1]))]
    return max(spreads, default=None) if some > 1 else None


def _chosen_otherwise(found: Sequence[Array], expected: Sequence[Array], limits: Limits) -> int:
    """Return how many detections of a file are not among the expected ones."""
    others = 0
    for place, count in enumerate(found[3]):
        mine, theirs = ([array[place] for array in side[:3]] for side in (found, expected))
        near = np.abs(mine[0][: int(count), None] - theirs[0][None]).max(axis=2) <= BOX_LIMITS["float32"] * limits.side
        alike = np.abs(mine[1][: int(count), None] - theirs[1][None]) <= limits.of_scores(theirs[1][None])
        others += int((~(near & alike & (mine[2][: int(count), None] == theirs[2][None])).any(axis=1)).sum())
    return others


def _score_error(found: Sequence[Array], expected: Sequence[Array]) -> float:
    """Return the largest difference of two scores of the same rank, which equals that change places do not change."""
    error = float(np.abs(found[1] - expected[1]).max())
    return error if np.isfinite(error) else float("inf")


def box_error(found: Sequence[Array], boxes: Array, scores: Array, side: int, tolerance: float) -> float:
    """Return how far a detection is from the nearest box that the model predicts for its class.

    Equals may come out in any order, and one of two equals may be left out, so a detection is not compared with that of
    the same rank, but with every box that scores as much before the NMS, which only lowers scores.

    Args:
        found: boxes (B, M, 4), scores (B, M), classes (B, M) counted from 1, and their number (B,).
        boxes: (B, A, 4), of all anchors.
        scores: (B, A, C), of all anchors.
        side: the longer side of the image, in pixels.
        tolerance: of a score.

    Returns:
        The largest distance of all, in units of `side`, or of the box's longer side if that is larger.
    """
    errors = [0.0]
    for image, count in enumerate(found[3]):
        rows = zip(*(array[image][: int(count)] for array in found[:3]), strict=True)
        for box, score, number in rows:
            if not 1 <= number <= scores.shape[2]:
                return float("inf")
            able = boxes[image][scores[image, :, number - 1] >= score - tolerance]
            unit = max(side, float(box[2] - box[0]), float(box[3] - box[1]))
            errors.append(float(np.abs(able - box).max(axis=1).min()) / unit if len(able) else float("inf"))
    return float("inf") if np.isnan(errors).any() else max(errors)
