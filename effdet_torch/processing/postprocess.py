"""Network output to detections in torch: for GPUs, and for graphs that are exported.

All images at once, with fixed shapes, and nothing waits for the device. `numpy_postprocess` gives the same on the CPU.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from effdet_torch.geometry.anchors import require_anchors
from effdet_torch.geometry.boxes import clip_boxes_xyxy, decode_boxes_xyxy
from effdet_torch.geometry.nms import non_max_suppression
from effdet_torch.processing.profiles import CLASS_OFFSET, Profile, get_profile

# Boxes that are selected for every detection, where some do not count: nothing can wait for how many do.
ROOM = 4
ROWS = 512  # of boxes that are compared with all others at once


class Detections(NamedTuple):
    """Detections of a batch, best first; rows from `num_detections` on are padding and 0.

    boxes_xyxy: (B, M, 4) float32 in pixels of the original images.
    scores: (B, M) float32; decayed if the profile is soft.
    classes: (B, M) int64, channel + 1 as in TensorFlow's output: COCO category ids for the official models.
    num_detections: (B,) int64.
    is_finite: (B,) whether what the detections are chosen from is finite; single logits may be -inf, a score of 0.
    """

    boxes_xyxy: Tensor
    scores: Tensor
    classes: Tensor
    num_detections: Tensor
    is_finite: Tensor


class Candidates(NamedTuple):
    """What goes into NMS: logits (B, N), anchor indices (B, N), class channels (B, N); and see `Detections`."""

    logits: Tensor
    anchors: Tensor
    classes: Tensor
    is_finite: Tensor


def postprocess(
    class_logits: Sequence[Tensor],
    box_deltas: Sequence[Tensor],
    anchors_yxyx: Tensor,
    image_scales: Tensor,
    image_size: tuple[int, int],
    profile: str | Profile = "official-eval",
    suppress: Callable[..., tuple[Tensor, Tensor, Tensor]] = non_max_suppression,
) -> Detections:
    """Turn the outputs of the network into detections.

    Args:
        class_logits: per level (B, anchors * num_classes, H_l, W_l); channel = anchor * num_classes + class.
        box_deltas: per level (B, anchors * 4, H_l, W_l); order (ty, tx, th, tw).
        anchors_yxyx: (A, 4), see `make_anchors_yxyx`.
        image_scales: (B,) or (B, 4), from network input to original pixels, as `preprocess` returns them.
        image_size: (height, width) of the network input, for profiles that clip.
        profile: a name in `PROFILES`, or your own.
        suppress: `non_max_suppression`, or another that gives the same.

    Raises:
        ConfigError: The profile does not exist, or the anchors do not fit the outputs.

    Source: EfficientDet official code, `postprocess_per_class` and `postprocess_global`.
    """
    chosen = get_profile(profile)
    deltas = flatten_levels(box_deltas, 4)
    require_anchors(deltas.shape[1], anchors_yxyx.shape[0])
    num_classes = 4 * class_logits[0].shape[1] // box_deltas[0].shape[1]
    logits = flatten_levels(class_logits, num_classes)
    candidates = top_k(logits, chosen.max_candidates) if chosen.candidates == "top_k" else best_class(logits)
    candidate_deltas = deltas.gather(1, candidates.anchors[:, :, None].expand(-1, -1, 4))
    boxes_xyxy = decode_boxes_xyxy(candidate_deltas, anchors_yxyx[candidates.anchors])
    largest = torch.linalg.vector_norm(candidate_deltas, math.inf, dim=(1, 2))  # NaN if one is
    candidates = candidates._replace(is_finite=candidates.is_finite & largest.isfinite())
    return _selected(boxes_xyxy, candidates, image_scales, image_size, chosen, suppress)


def _selected(
    boxes_xyxy: Tensor,
    candidates: Candidates,
    image_scales: Tensor,
    image_size: tuple[int, int],
    profile: Profile,
    suppress: Callable[..., tuple[Tensor, Tensor, Tensor]],
) -> Detections:
    """Run NMS over boxes (B, N, 4) in network pixels and bring the result to original pixels."""
    # In float64, because a float32 sigmoid that is not correctly rounded makes ties where TensorFlow has none.
    scores = candidates.logits.double().sigmoid().float()
    classes = candidates.classes if profile.per_class else None
    most = min(ROOM * profile.max_detections, scores.shape[1]) if profile.selects_further else profile.max_detections
    limits = most, profile.iou_threshold, profile.score_threshold
    indices, scores, num_detections = suppress(boxes_xyxy, scores, classes, *limits, profile.sigma / 2)
    boxes_xyxy = boxes_xyxy.gather(1, indices[:, :, None].expand(-1, -1, 4))
    classes = candidates.classes.gather(1, indices) + CLASS_OFFSET
    found = Detections(boxes_xyxy, scores, classes, num_detections, candidates.is_finite)
    if profile.selects_further:
        found = _select_further(found, image_scales, image_size, profile)
    elif profile.clip:
        found = found._replace(boxes_xyxy=clip_boxes_xyxy(found.boxes_xyxy, image_size))
    valid = torch.arange(found.scores.shape[1], device=indices.device) < found.num_detections[:, None]
    boxes_xyxy = torch.where(valid[:, :, None], found.boxes_xyxy * scales_of_boxes(image_scales), 0.0)
    return found._replace(boxes_xyxy=boxes_xyxy, classes=torch.where(valid, found.classes, 0))


def scales_of_boxes(image_scales: Tensor) -> Tensor:
    """Return what boxes (B, N, 4) are multiplied by, (B, 1, 1) or (B, 1, 4), for the scales of `preprocess`."""
    return image_scales[:, None, None] if image_scales.ndim == 1 else image_scales[:, None, :2].repeat(1, 1, 2)


def _select_further(
    found: Detections, image_scales: Tensor, image_size: tuple[int, int], profile: Profile
) -> Detections:
    """Return what counts of the boxes (B, N, 4) that suppression left, see `Profile`."""
    boxes_xyxy, scores, classes = found[:3]
    counts = torch.arange(scores.shape[1], device=scores.device) < found.num_detections[:, None]
    if profile.max_per_class:
        counts = counts & (_places_in_class(classes) < profile.max_per_class)
    if profile.to_image:
        if image_scales.ndim == 1:
            boxes_xyxy = clip_boxes_xyxy(boxes_xyxy, image_size)
        else:
            boxes_xyxy = torch.minimum(boxes_xyxy.clamp(min=0.0), image_scales[:, None, 2:].repeat(1, 1, 2))
        counts = counts & ((boxes_xyxy[:, :, 2:] - boxes_xyxy[:, :, :2]).prod(dim=2) != 0)
    counts = counts & (counts.cumsum(dim=1) <= profile.max_detections)
    places, number = _indices_of(counts, profile.max_detections), counts.sum(dim=1)
    valid = torch.arange(places.shape[1], device=places.device) < number[:, None]
    scores = torch.where(valid, scores.gather(1, places), 0.0)
    corners = boxes_xyxy.gather(1, places[:, :, None].expand(-1, -1, 4))
    return Detections(corners, scores, classes.gather(1, places), number, found.is_finite)


def _places_in_class(classes: Tensor) -> Tensor:
    """Return how many boxes of the same class are before every box of (B, N), (B, N)."""
    places = torch.arange(classes.shape[1], device=classes.device)
    # In parts: all at once would take N^2 values.
    rows = zip(torch.split(classes, ROWS, dim=1), torch.split(places, ROWS), strict=True)
    before = [((some[:, :, None] == classes[:, None]) & (places < here[:, None])).sum(dim=2) for some, here in rows]
    return torch.cat(before, dim=1)


def flatten_levels(levels: Sequence[Tensor], num_values: int) -> Tensor:
    """Bring per-level outputs (B, anchors * num_values, H_l, W_l) into the order of the anchors.

    Returns:
        (B, A, num_values) float32.
    """
    flat = [level.flatten(2).transpose(1, 2) for level in levels]
    return torch.cat(flat, dim=1).float().reshape(flat[0].shape[0], -1, num_values)


def best_class(logits: Tensor) -> Candidates:
    """Take every anchor with its highest class of logits (B, A, C); among equal ones the lowest class."""
    classes = logits.argmax(dim=2, keepdim=True)
    anchors = torch.arange(logits.shape[1], device=logits.device).expand(logits.shape[0], -1)
    highest = logits.gather(2, classes)[:, :, 0]  # NaN if one is: argmax takes it
    return Candidates(highest, anchors, classes[:, :, 0], highest.amax(dim=1).isfinite())


def top_k(logits: Tensor, k: int) -> Candidates:
    """Take the `k` highest logits (B, A, C) of every image, in the order of (class, anchor).

    Among equal logits the lower (anchor, class) is taken, as by TensorFlow's `top_k`. In the order of the result, NMS
    treats equal scores of different classes as the official merge of the classes does.
    """
    num_anchors, num_classes = logits.shape[1:]
    k = min(k, num_anchors * num_classes)
    # The k best pairs lie among the k anchors with the best maxima: each of these contributes a pair that is as good.
    num_rows = min(k, num_anchors)
    highest = logits.amax(dim=2)  # NaN if one is
    rows = _indices_of(_highest(highest, num_rows), num_rows)
    row_logits = logits.gather(1, rows[:, :, None].expand(-1, -1, num_classes)).flatten(1)
    taken = _highest(row_logits, k).view(-1, num_rows, num_classes)
    pairs = _indices_of(taken.transpose(1, 2).flatten(1), k)  # class * num_rows + row
    positions, classes = pairs % num_rows, pairs // num_rows
    chosen = row_logits.gather(1, positions * num_classes + classes)
    return Candidates(chosen, rows.gather(1, positions), classes, highest.amax(dim=1).isfinite())


def _highest(values: Tensor, k: int) -> Tensor:
    """Return which of the values (B, N) are the k highest; among equal ones the lowest indices.

    `torch.topk` promises nothing about equal values, so only the k-th value is taken from it.
    """
    values = torch.where(values.isnan(), -math.inf, values)
    least = values.topk(k, dim=1).values[:, -1:]
    above, equal = values > least, values == least
    return above | (equal & (equal.cumsum(dim=1) <= k - above.sum(dim=1, keepdim=True)))


def _indices_of(taken: Tensor, k: int) -> Tensor:
    """Return where the k true values of every row (B, N) are, (B, k), ascending."""
    indices = torch.arange(taken.shape[1], device=taken.device).expand_as(taken)
    places = torch.where(taken, taken.cumsum(dim=1) - 1, k)  # all others share a place behind the end
    return indices.new_zeros(taken.shape[0], k + 1).scatter(1, places, indices)[:, :k]
