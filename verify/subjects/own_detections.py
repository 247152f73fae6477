"""The detections that a TensorFlow Lite file makes itself, beside ours on the same outputs of the network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from effdet_torch.config import EfficientDetConfig
from effdet_torch.geometry.anchors import anchors_yxyx
from effdet_torch.processing.numpy_postprocess import postprocess
from effdet_torch.processing.profiles import CLASS_OFFSET, PROFILES, own_profile
from verify.reference.base import HeadOutputs
from verify.reference.tflite.interpreter import TfliteReference

PROFILE = "tflite"
SETTINGS = ("iou_threshold", "score_threshold", "max_detections")
# How far a box (in sides of the image) and a score may be away, by the precision of the file: half precision rounds the
# anchors, and 8 bits have 256 scores.
AWAY: Mapping[str, tuple[float, float]] = {"float32": (1e-4, 1e-4), "float16": (2e-3, 1e-3), "int8": (1e-4, 1 / 128)}


def describe_detections(reference: TfliteReference, config: EfficientDetConfig) -> str:
    """Return in words how many detections of the last run ours has as well.

    Args:
        reference: ran before.
        config: of the model, whose anchors and settings are used, at the size of the file's image.
    """
    config = replace(config, image_size=reference.image_size)
    boxes, classes, scores = reference.detections()
    profile = replace(
        PROFILES[PROFILE],
        **{name: getattr(own_profile(config), name) for name in SETTINGS},
    )
    outputs = _channels_first(reference.last_outputs())
    ours = postprocess(*outputs, anchors_yxyx(config), 1.0, config.image_size, profile)
    height, width = config.image_size
    sides, away = AWAY[reference.precision]
    theirs = boxes[:, [1, 0, 3, 2]] * np.array([width, height, width, height], np.float32)
    near = np.abs(theirs[:, None] - ours.boxes_xyxy[None]).max(axis=2) < sides * max(height, width)
    same = near & (classes[:, None] + CLASS_OFFSET == ours.classes[None])
    alike = same & (np.abs(scores[:, None] - ours.scores[None]) < away)
    return (
        f"Its detection operation found {len(theirs)} boxes; the profile {PROFILE}, on the same outputs, has "
        f"{int(alike.any(axis=1).sum())} of them. They may differ where scores are equal; both suppress a box only if "
        "its overlap is above the threshold."
    )


def _channels_first(outputs: HeadOutputs) -> tuple[list[NDArray[np.float32]], list[NDArray[np.float32]]]:
    classes, boxes = (
        [np.ascontiguousarray(array[0].transpose(2, 0, 1)) for _, array in sorted(head.items())]
        for head in (outputs.class_logits, outputs.box_deltas)
    )
    return classes, boxes
