"""What TensorFlow Lite's detection operation does, as a postprocessing profile."""

from __future__ import annotations

from dataclasses import replace

from effdet_torch.config import EfficientDetConfig
from effdet_torch.engines.document import Interface, profile_from
from effdet_torch.processing.profiles import PROFILES, Profile

OPERATION = PROFILES["tflite"]
# Settings of the operation -> the model's own `nms_configs` that the official code puts there.
SETTINGS = {"iou_threshold": "iou_thresh", "score_threshold": "score_thresh", "max_detections": "max_output_size"}


def operation_profile(config: EfficientDetConfig) -> Profile:
    """Return the profile of the operation with the model's own thresholds.

    Source: the official code's `tflite_nms_implements_signature`.
    """
    given = dict(config.nms_configs)
    return replace(OPERATION, **{name: given[key] for name, key in SETTINGS.items() if key in given})  # type: ignore[arg-type]


def why_not(interface: Interface) -> str:
    """Return why such a file cannot be written; "" if it can."""
    if interface.batch != 1:
        return "it takes one image at a time, as the official files do; leave out --batch"
    if interface.outputs == "detections":
        profile = profile_from(interface.profile)
        if replace(profile, **{name: getattr(OPERATION, name) for name in SETTINGS}) != OPERATION:
            return (
                "detections come from TFLite_Detection_PostProcess, which has a profile of its own (tflite); leave out "
                "--profile, and pass --nms hard or none"
            )
    if interface.pixels == "uint8" and interface.precision != "int8":
        return f"it takes normalised floats in {interface.precision}; leave out --input uint8"
    if interface.pixels == "normalized" and interface.precision == "int8":
        return "it takes bytes in int8, as the official files do; leave out --input normalized"
    return ""
