"""What names and shapes show of an EfficientDet, or of a backbone without a detector."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from converter.errors import UnsupportedSourceError
from effdet_torch.architecture import MIN_LEVEL
from effdet_torch.config import VARIANTS, EfficientDetConfig, get_config, variants_with

ARCHITECTURE = ("backbone", "fpn_channels", "fpn_cells", "head_repeats", "max_level")


@dataclass(frozen=True)
class DetectorArchitecture:
    """What names and shapes show. Values that they cannot show (image size, anchors) come from elsewhere."""

    backbone: str
    fpn_channels: int
    fpn_cells: int
    head_repeats: int
    max_level: int
    weighted: bool
    num_classes: int
    anchors_per_location: int

    @classmethod
    def from_answers(cls, answers: Mapping[str, Any]) -> DetectorArchitecture:
        """Build the architecture from the answers to the questions of the detector's table.

        Raises:
            UnsupportedSourceError: The heads do not predict boxes and classes for a whole number of anchors.
        """
        anchors, rest = divmod(answers["box_channels"], 4)
        if rest or not anchors or answers["class_channels"] % anchors:
            raise UnsupportedSourceError(
                f"a custom head: the box prediction has {answers['box_channels']} channels (expected anchors x 4) and "
                f"the class prediction {answers['class_channels']} (expected anchors x classes)"
            )
        return cls(
            backbone=answers["backbone"],
            fpn_channels=answers["fpn_channels"],
            fpn_cells=answers["fpn_cells"],
            head_repeats=answers["head_repeats"],
            max_level=MIN_LEVEL + answers["num_levels"] - 1,
            weighted=answers["weighted"],
            num_classes=answers["class_channels"] // anchors,
            anchors_per_location=anchors,
        )

    def matches(self, config: EfficientDetConfig) -> bool:
        """Whether a variant has this architecture, class count aside."""
        same = all(getattr(self, name) == getattr(config, name) for name in ARCHITECTURE)
        return same and self.weighted == (config.fusion != "sum")

    def variants(self) -> list[str]:
        """Return the variants with this architecture: none for a custom one, two for d6 / d7."""
        return [name for name, config in VARIANTS.items() if self.matches(config)]

    def config(self) -> EfficientDetConfig:
        """Return a config with exactly these variables; its anchors have the right number, and no more."""
        return get_config(
            variants_with(self.backbone)[0],
            **{name: getattr(self, name) for name in (*ARCHITECTURE, "num_classes")},
            fusion="fastattn" if self.weighted else "sum",
            num_scales=self.anchors_per_location,
            aspect_ratios=(1.0,),
        )

    def describe(self) -> str:
        """Return the architecture in words."""
        fusion = "weighted fusion" if self.weighted else "unweighted fusion"
        return (
            f"{self.backbone}, BiFPN {self.fpn_cells} x {self.fpn_channels} channels, {fusion}, "
            f"heads x {self.head_repeats}, levels {MIN_LEVEL}-{self.max_level}"
        )


@dataclass(frozen=True)
class BackboneArchitecture:
    """A backbone without a detector."""

    backbone: str

    @classmethod
    def from_answers(cls, answers: Mapping[str, Any]) -> BackboneArchitecture:
        """Build the architecture from the answer to the one question of the backbone's table."""
        return cls(answers["backbone"])

    def variants(self) -> list[str]:
        """Return no detector: there is none."""
        return []

    def describe(self) -> str:
        """Return the architecture in words."""
        return f"{self.backbone}, without a detector"
