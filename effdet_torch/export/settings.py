"""What a file that is to be exported shall be."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal, get_args

from effdet_torch.checks import CHECKS, Check, integer, one_of
from effdet_torch.config import EfficientDetConfig
from effdet_torch.engines.document import Interface, Pixels, Precision, plain_profile
from effdet_torch.errors import ConfigError, UsageError
from effdet_torch.processing.profiles import OWN, PROFILES, Profile, get_profile, own_profile, profile_name

Suppression = Literal["none", "soft", "hard"]
OPSET = 18  # of ONNX; the first one with all operators that the exporter uses
LAST_OPSET = 23  # the last one that it writes


def _or_none(check: Check) -> Check:
    fits, expected = check
    return lambda value: value is None or fits(value), f"{expected}, or None for the format's own"


SETTING_CHECKS: Mapping[str, Check] = {
    "nms": _or_none(one_of(get_args(Suppression))),
    "pixels": _or_none(one_of(get_args(Pixels))),
    "batch": (lambda value: value is None or integer(1, 999)[0](value), "1 to 999, or None for any"),
    "image_size": (
        lambda value: value in (None, OWN) or CHECKS["image_size"][0](value),
        f"{CHECKS['image_size'][1]}, or {OWN!r}, or None for any",
    ),
    "precision": one_of(get_args(Precision)),
    "opset": (
        lambda value: value is None or integer(OPSET, LAST_OPSET)[0](value),
        f"{OPSET} to {LAST_OPSET}, or None for {OPSET}",
    ),
}
OwnProfile = Callable[[EfficientDetConfig], Profile]
HARD = {"serving": "serving-hard", "official-eval": "official-eval-hard"}


@dataclass(frozen=True)
class ExportSettings:
    """How to export a model.

    Attributes:
        nms: "none": the network alone; otherwise decoding and NMS are part of the file; None: what
            `Format.nms` says, or "none".
        pixels: what the file takes, see `Interface`; None: "uint8" with int8, else "normalized".
        batch: batch size of the file; None: any.
        image_size: (height, width) in pixels; "model": the model's; None: any.
        precision: of weights and arithmetic.
        opset: of ONNX, for .onnx files only; None: `OPSET`.
        profile: of the detections inside; "model" is the model's own.

    Raises:
        ConfigError: A value does not fit, or the profile does not exist, or is not one of this kind of NMS.
    """

    nms: Suppression | None = None
    pixels: Pixels | None = None
    batch: int | None = 1
    image_size: tuple[int, int] | Literal["model"] | None = "model"
    precision: Precision = "float32"
    opset: int | None = None
    profile: str = OWN

    def __post_init__(self) -> None:
        for name, (fits, expected) in SETTING_CHECKS.items():
            if not fits(value := getattr(self, name)):
                raise ConfigError(f"{name} is {value!r}; expected {expected}")
        if self.nms == "none" and self.profile != OWN:
            raise ConfigError(f"profile {self.profile} has no effect without NMS; pass --nms soft or --nms hard")

    def chosen_profile(self, config: EfficientDetConfig, own: OwnProfile = own_profile) -> Profile | None:
        """Return the settings of the postprocessing in the file; None for the network alone."""
        if self.nms == "none":
            return None
        profile = own(config) if self.profile == OWN else get_profile(self.profile, config)
        if profile.to_image:
            raise ConfigError(
                f"the detections of {profile_name(profile)} end at the border of every image, whose size such a file "
                f"does not know; leave out --nms, or pass --profile {HARD['official-eval']}"
            )
        if self.nms == "hard":
            named = (PROFILES[hard] for soft, hard in HARD.items() if PROFILES[soft] == profile)
            return next(named, replace(profile, sigma=0.0))
        if profile.sigma == 0:
            raise ConfigError(f"the profile {self.profile} uses hard NMS; pass --nms hard, or one of {', '.join(HARD)}")
        return profile

    def interface(self, config: EfficientDetConfig, own: OwnProfile = own_profile) -> Interface:
        """Return what the file will take and return.

        Args:
            config: of the model.
            own: gives the profile that "model" means.

        Raises:
            ConfigError: A model with a segmentation head has no file of this kind.
        """
        if self.nms is None:
            return replace(self, nms="none").interface(config, own)
        if config.segments and self.nms != "none":
            raise ConfigError(
                "a file with detections has no room for a mask; export the network alone, with --nms none"
            )
        if config.segments and self.image_size is None:
            raise ConfigError("not every image size fits a segmentation head; export one, with --image-size")
        profile = self.chosen_profile(config, own)
        return Interface(
            outputs="network" if profile is None else "detections",
            pixels=self.pixels or ("uint8" if self.precision == "int8" else "normalized"),
            batch=self.batch,
            image_size=config.image_size if self.image_size == "model" else self.image_size,
            precision=self.precision,
            profile={} if profile is None else plain_profile(profile),
        )


def require_calibration(precision: str, images: int) -> None:
    """Refuse int8 without images to calibrate with, and such images without int8.

    Raises:
        UsageError: One is there without the other.
    """
    if precision == "int8" and not images:
        raise UsageError(
            "int8 needs images to measure the range of every tensor with: pass --calibrate PHOTOS, photos like those "
            "that the file will see (calibration in Python)"
        )
    if precision != "int8" and images:
        raise UsageError(f"calibration images have no effect in {precision}; pass --int8, or leave out --calibrate")
