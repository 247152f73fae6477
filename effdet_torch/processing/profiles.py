"""How detections are made from the network's output: the postprocessing profiles.

The official code has two paths, and published COCO numbers come from the slower one. They differ in four switches,
which a `Profile` names; everything else is shared.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from effdet_torch.config import EfficientDetConfig
from effdet_torch.errors import ConfigError

CLASS_OFFSET = 1  # category = class channel + 1, as in TensorFlow's output


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
        max_per_class: of an image, counted before boxes are left out; 0 means no limit.
        to_image: whether boxes are clipped to the image, without the padding beside it, and those without an area left
            out, after suppression; to the network input where the image's size there is not known.
    """

    candidates: Literal["top_k", "best_class"] = "top_k"
    per_class: bool = True
    clip: bool = False
    sigma: float = 0.0
    iou_threshold: float = 0.5
    score_threshold: float = -math.inf
    max_candidates: int = 5000
    max_detections: int = 100
    max_per_class: int = 0
    to_image: bool = False

    def __post_init__(self) -> None:
        if self.candidates not in ("top_k", "best_class"):
            raise ConfigError(f"candidates is {self.candidates!r}; expected 'top_k' or 'best_class'")
        if self.sigma > 0 and self.score_threshold < 0:
            raise ConfigError(f"score_threshold is {self.score_threshold}; expected 0 or more with soft NMS")
        if self.max_candidates < 1 or self.max_detections < 1:
            raise ConfigError("max_candidates and max_detections must be at least 1")

    @property
    def selects_further(self) -> bool:
        """Whether not everything counts that suppression leaves."""
        return self.to_image or 0 < self.max_per_class < self.max_detections


PROFILES: Mapping[str, Profile] = {
    "official-eval": Profile(sigma=0.5, score_threshold=0.001),
    "official-eval-hard": Profile(),
    "serving": Profile("best_class", per_class=False, clip=True, sigma=0.5, score_threshold=0.001),
    "serving-hard": Profile("best_class", per_class=False, clip=True),
    # The API lets all pairs of anchor and class take part; those behind the best 50 000 do not become detections.
    "object-detection-api": Profile(score_threshold=1e-8, max_candidates=50_000, max_per_class=100, to_image=True),
    # TensorFlow Lite's TFLite_Detection_PostProcess, without and with use_regular_nms; its boxes are not clipped.
    "tflite": Profile("best_class", per_class=False),
    "tflite-regular": Profile(max_candidates=1_000_000),
    "hard": Profile(),  # the detections of `torchvision.ops.batched_nms`: the name that users of it look for
}


OWN = "model"  # the name of the profile that a model brings along


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


def profile_name(profile: Profile) -> str:
    """Return the name of a profile, or that it has none."""
    return next((name for name, known in PROFILES.items() if known == profile), "one of its own")


def own_profile(config: EfficientDetConfig) -> Profile:
    """Return "serving", or the profile that `nms_configs` names, with the settings that the model was trained with.

    The models of the `effdet` package have its hard NMS for each class instead, and clipped boxes.

    Source: EfficientDet official code, `postprocess.nms` and `topk_class_boxes`.
    """
    given: dict[str, Any] = dict(config.nms_configs)
    is_hard = given.get("method") == "hard"
    serving = PROFILES[given.get("profile", "serving-hard" if is_hard else "serving")]
    if config.backbone_style == "pytorch":
        serving = replace(PROFILES["hard"], clip=True)
    soft = PROFILES["serving"].sigma if "profile" in given else serving.sigma  # "gaussian" is not stored: the default
    return replace(
        serving,
        candidates="top_k" if "max_nms_inputs" in given else serving.candidates,
        sigma=serving.sigma if is_hard else given.get("sigma", soft),
        iou_threshold=given.get("iou_thresh", serving.iou_threshold),
        score_threshold=given.get("score_thresh", serving.score_threshold),
        max_candidates=given.get("max_nms_inputs", serving.max_candidates),
        max_detections=given.get("max_output_size", serving.max_detections),
        max_per_class=given.get("max_per_class", serving.max_per_class),
    )
