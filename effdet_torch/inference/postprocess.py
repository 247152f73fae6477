"""Network output to detections: candidates, boxes, non-maximum suppression, original pixels.

The official code has two paths, and published COCO numbers come from the slower one. They differ in four switches,
which a `Profile` names; everything else is shared.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from effdet_torch.config import EfficientDetConfig
from effdet_torch.errors import ConfigError
from effdet_torch.geometry.boxes import clip_boxes_xyxy, decode_boxes_xyxy
from effdet_torch.geometry.nms import non_max_suppression, torchvision_nms

CLASS_OFFSET = 1


@dataclass(frozen=True)
class Profile:
    """How detections are made from logits.

    Attributes:
        candidates: "top_k" takes the `max_candidates` highest logits of all (anchor, class) pairs; "best_class" takes
            every anchor with its best class.
        per_class: whether only boxes of the same class suppress each other.
        clip: whether boxes are clipped to the network input.
        sigma: of soft NMS, in the paper's convention: scores decay by exp(-IoU^2 / sigma). 0 means hard NMS.
        iou_threshold: overlap above which hard NMS removes a box.
        score_threshold: detections score more than this.
        max_candidates: only for "top_k".
        max_detections: per image.
        backend: "tensorflow" for its NMS semantics, "torchvision" for `torchvision.ops.batched_nms`.
    """

    candidates: Literal["top_k", "best_class"] = "top_k"
    per_class: bool = True
    clip: bool = False
    sigma: float = 0.0
    iou_threshold: float = 0.5
    score_threshold: float = -math.inf
    max_candidates: int = 5000
    max_detections: int = 100
    backend: Literal["tensorflow", "torchvision"] = "tensorflow"

    def __post_init__(self) -> None:
        for name, choices in (("candidates", ("top_k", "best_class")), ("backend", ("tensorflow", "torchvision"))):
            if getattr(self, name) not in choices:
                raise ConfigError(f"{name} is {getattr(self, name)!r}; expected {' or '.join(map(repr, choices))}")
        if self.backend == "torchvision" and (self.sigma > 0 or not self.per_class or self.score_threshold > -math.inf):
            raise ConfigError("the torchvision backend is hard, per class and has no score threshold; use tensorflow")
        if self.sigma > 0 and self.score_threshold < 0:
            raise ConfigError(f"score_threshold is {self.score_threshold}; expected 0 or more with soft NMS")
        if self.max_candidates < 1 or self.max_detections < 1:
            raise ConfigError("max_candidates and max_detections must be at least 1")


PROFILES: Mapping[str, Profile] = {
    "official-eval": Profile(sigma=0.5, score_threshold=0.001),
    "official-eval-hard": Profile(),
    "serving": Profile("best_class", per_class=False, clip=True, sigma=0.5, score_threshold=0.001),
    "serving-hard": Profile("best_class", per_class=False, clip=True),
    "hard": Profile(backend="torchvision"),
}


OWN = "model"  # the name of the profile that a model brings along


class Detections(NamedTuple):
    """Detections of a batch, best first; rows from `num_detections` on are padding and 0.

    boxes_xyxy: (B, M, 4) float32 in pixels of the original images.
    scores: (B, M) float32; decayed if the profile is soft.
    classes: (B, M) int64, channel + 1 as in TensorFlow's output: COCO category ids for the official models.
    num_detections: (B,) int64.
    """

    boxes_xyxy: Tensor
    scores: Tensor
    classes: Tensor
    num_detections: Tensor


class Candidates(NamedTuple):
    """What goes into NMS: logits (B, N), anchor indices (B, N), class channels (B, N)."""

    logits: Tensor
    anchors: Tensor
    classes: Tensor


def get_profile(profile: str | Profile, config: EfficientDetConfig | None = None) -> Profile:
    """Return a profile by its name.

    Args:
        profile: its name; "model" is the model's own, see `own_profile`.
        config: of the model.

    Raises:
        ConfigError: There is no profile of this name.
    """
    if isinstance(profile, Profile):
        return profile
    if profile == OWN and config is not None:
        return own_profile(config)
    if not isinstance(profile, str) or profile not in PROFILES:
        known = ", ".join([*([] if config is None else [OWN]), *PROFILES])
        raise ConfigError(f"unknown postprocessing profile {profile!r}; expected one of {known}")
    return PROFILES[profile]


def own_profile(config: EfficientDetConfig) -> Profile:
    """Return "serving" with the `nms_configs` that the model was trained with.

    Source: EfficientDet official code, `postprocess.nms` and `topk_class_boxes`.
    """
    given: dict[str, Any] = dict(config.nms_configs)
    is_hard = given.get("method") == "hard"
    serving = PROFILES["serving-hard" if is_hard else "serving"]
    return replace(
        serving,
        candidates="top_k" if "max_nms_inputs" in given else serving.candidates,
        sigma=serving.sigma if is_hard else given.get("sigma", serving.sigma),
        iou_threshold=given.get("iou_thresh", serving.iou_threshold),
        score_threshold=given.get("score_thresh", serving.score_threshold),
        max_candidates=given.get("max_nms_inputs", serving.max_candidates),
        max_detections=given.get("max_output_size", serving.max_detections),
    )


def postprocess(
    class_logits: Sequence[Tensor],
    box_deltas: Sequence[Tensor],
    anchors_yxyx: Tensor,
    image_scales: Tensor,
    image_size: tuple[int, int],
    profile: str | Profile = "official-eval",
) -> Detections:
    """Turn the outputs of the network into detections.

    Args:
        class_logits: per level (B, anchors * num_classes, H_l, W_l); channel = anchor * num_classes + class.
        box_deltas: per level (B, anchors * 4, H_l, W_l); order (ty, tx, th, tw).
        anchors_yxyx: (A, 4), see `make_anchors_yxyx`.
        image_scales: (B,), from network input to original pixels, as `preprocess` returns them.
        image_size: (height, width) of the network input, for profiles that clip.
        profile: a name in `PROFILES`, or your own.

    Raises:
        ConfigError: The profile does not exist, or the anchors do not fit the outputs.

    Source: EfficientDet official code, `postprocess_per_class` and `postprocess_global`.
    """
    chosen = get_profile(profile)
    deltas = flatten_levels(box_deltas, 4)
    if deltas.shape[1] != anchors_yxyx.shape[0]:
        raise ConfigError(
            f"the network returned boxes for {deltas.shape[1]} anchors, but there are {anchors_yxyx.shape[0]}; "
            "make the anchors for the image size of the batch"
        )
    num_classes = 4 * class_logits[0].shape[1] // box_deltas[0].shape[1]
    logits = flatten_levels(class_logits, num_classes)
    candidates = top_k(logits, chosen.max_candidates) if chosen.candidates == "top_k" else best_class(logits)
    candidate_deltas = deltas.gather(1, candidates.anchors[:, :, None].expand(-1, -1, 4))
    boxes_xyxy = decode_boxes_xyxy(candidate_deltas, anchors_yxyx[candidates.anchors])
    return _suppress(boxes_xyxy, candidates, image_scales, image_size, chosen)


def _suppress(
    boxes_xyxy: Tensor, candidates: Candidates, image_scales: Tensor, image_size: tuple[int, int], profile: Profile
) -> Detections:
    """Run NMS over boxes (B, N, 4) in network pixels and bring the result to original pixels."""
    # In float64, because a float32 sigmoid that is not correctly rounded makes ties where TensorFlow has none.
    scores = candidates.logits.double().sigmoid().float()
    classes = candidates.classes if profile.per_class else None
    limits = profile.max_detections, profile.iou_threshold
    if profile.backend == "torchvision":
        selected = torchvision_nms(boxes_xyxy, scores, candidates.classes, *limits)
    else:
        soft = profile.score_threshold, profile.sigma / 2
        selected = non_max_suppression(boxes_xyxy, scores, classes, *limits, *soft)
    indices, scores, num_detections = selected
    boxes_xyxy = boxes_xyxy.gather(1, indices[:, :, None].expand(-1, -1, 4))
    if profile.clip:
        boxes_xyxy = clip_boxes_xyxy(boxes_xyxy, image_size)
    valid = torch.arange(indices.shape[1], device=indices.device) < num_detections[:, None]
    boxes_xyxy = torch.where(valid[:, :, None], boxes_xyxy * image_scales[:, None, None], 0.0)
    classes = torch.where(valid, candidates.classes.gather(1, indices) + CLASS_OFFSET, 0)
    return Detections(boxes_xyxy, scores, classes, num_detections)


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
    return Candidates(logits.gather(2, classes)[:, :, 0], anchors, classes[:, :, 0])


def top_k(logits: Tensor, k: int) -> Candidates:
    """Take the `k` highest logits (B, A, C) of every image, in the order of (class, anchor).

    Among equal logits the lower (anchor, class) is taken, as by TensorFlow's `top_k`. In the order of the result, NMS
    treats equal scores of different classes as the official merge of the classes does.
    """
    num_anchors, num_classes = logits.shape[1:]
    k = min(k, num_anchors * num_classes)
    # The k best pairs lie among the k anchors with the best maxima: each of these contributes a pair that is as good.
    rows = _top_indices(logits.amax(dim=2), min(k, num_anchors)).sort(dim=1).values
    row_logits = logits.gather(1, rows[:, :, None].expand(-1, -1, num_classes)).flatten(1)
    pairs = _top_indices(row_logits, k)
    anchors, classes = rows.gather(1, pairs // num_classes), pairs % num_classes
    order = (classes * num_anchors + anchors).argsort(dim=1)
    return Candidates(row_logits.gather(1, pairs.gather(1, order)), anchors.gather(1, order), classes.gather(1, order))


def _top_indices(values: Tensor, k: int) -> Tensor:
    """Return the indices (B, k) of the highest float32 values (B, N); among equal ones the lowest indices.

    `torch.topk` promises nothing about equal values, so it gets keys without any: the float's bits, which order like
    integers once those of negative numbers are inverted, and behind them the index.
    """
    bits = (values + 0.0).view(torch.int32).long()  # + 0.0 turns -0.0, whose bits differ, into 0.0
    ordered = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
    countdown = torch.arange(values.shape[1] - 1, -1, -1, device=values.device)
    return (ordered * 2**32 + countdown).topk(k, dim=1).indices
