"""What a file that is to be exported shall be."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from effdet_torch.config import EfficientDetConfig
from effdet_torch.engines.document import Interface, Pixels, Precision, plain_profile
from effdet_torch.errors import ConfigError
from effdet_torch.processing.profiles import OWN, PROFILES, Profile, get_profile

Suppression = Literal["none", "soft", "hard"]
OPSET = 18  # of ONNX; the first one with all operators that the exporter uses
HARD = {"serving": "serving-hard", "official-eval": "official-eval-hard"}


@dataclass(frozen=True)
class ExportSettings:
    """How to export a model.

    Attributes:
        nms: "none": the network alone; otherwise decoding and NMS are part of the file.
        pixels: what the file takes, see `Interface`.
        batch: batch size of the file; None: any.
        image_size: (height, width) in pixels; "model": the model's; None: any.
        precision: of weights and arithmetic.
        opset: of ONNX.
        profile: of the detections inside; "model" is the model's own.

    Raises:
        ConfigError: The profile does not exist, or is not one of this kind of NMS.
    """

    nms: Suppression = "none"
    pixels: Pixels = "normalized"
    batch: int | None = 1
    image_size: tuple[int, int] | Literal["model"] | None = "model"
    precision: Precision = "float32"
    opset: int = OPSET
    profile: str = OWN

    def chosen_profile(self, config: EfficientDetConfig) -> Profile | None:
        """Return the settings of the postprocessing in the file; None for the network alone."""
        if self.nms == "none":
            if self.profile != OWN:
                raise ConfigError(f"profile {self.profile} has no effect without NMS; pass --nms soft or --nms hard")
            return None
        profile = get_profile(self.profile, config)
        if self.nms == "hard":
            named = (PROFILES[hard] for soft, hard in HARD.items() if PROFILES[soft] == profile)
            return next(named, replace(profile, sigma=0.0))
        if profile.sigma == 0:
            raise ConfigError(
                f"the profile {self.profile} suppresses hard; pass --nms hard, or one of {', '.join(HARD)}"
            )
        return profile

    def interface(self, config: EfficientDetConfig) -> Interface:
        """Return what the file will take and return."""
        profile = self.chosen_profile(config)
        return Interface(
            outputs="network" if profile is None else "detections",
            pixels=self.pixels,
            batch=self.batch,
            image_size=config.image_size if self.image_size == "model" else self.image_size,
            precision=self.precision,
            profile={} if profile is None else plain_profile(profile),
        )
