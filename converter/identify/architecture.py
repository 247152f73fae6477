"""What names and shapes show of a network: an EfficientDet, or a backbone without a detector."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from converter.errors import UnsupportedSourceError
from converter.source import VariableSource
from effdet_torch.architecture.backbone import BACKBONE_TOP
from effdet_torch.architecture.pyramid import CELLS
from effdet_torch.checks import DETECTION, HEADS
from effdet_torch.config import (
    PACKAGE_VARIANTS,
    VARIANTS,
    EfficientDetConfig,
    Fusion,
    get_config,
    variants_with,
)

# Fields of the config that names and shapes decide, besides the heads and their classes.
ARCHITECTURE = (
    "backbone",
    "fpn_channels",
    "fpn_cells",
    "head_repeats",
    "min_level",
    "max_level",
    "separable_conv",
    "apply_bn_for_resampling",
    "conv_bn_act_pattern",
)
PYTORCH_FILE = "PyTorch file"  # the kind of source
OFFICIAL_NAME = re.compile(r"^.*efficientdet[-_]")
PACKAGE_NAME = re.compile(r"(?<!tf_)efficientdet(v2)?_[a-z0-9]+")  # at its place in the name of a file
LEVELS = ("min_level", "max_level")
OF_HEADS = ("heads", "num_classes", "seg_num_classes")
UNWEIGHTED, SCALAR, PER_CHANNEL = "unweighted", "weighted", "channel-weighted"


def weights_of(fusion: str) -> str:
    """Return which weights a kind of fusion has."""
    if fusion == "sum":
        return UNWEIGHTED
    return PER_CHANNEL if fusion.startswith("channel_") else SCALAR


@dataclass(frozen=True)
class DetectorArchitecture:
    """What names and shapes show. Values that they cannot show (image size, anchors) come from elsewhere.

    Without one of the heads, nothing shows its values: they are None, and so are classes and anchors where heads have
    no predictions. Without the heads that detect, the pyramid's levels begin at the usual one.
    """

    backbone: str
    fpn_channels: int
    fpn_cells: int
    head_repeats: int | None
    min_level: int
    max_level: int
    num_nodes: int
    fusion_weights: str
    separable_conv: bool
    apply_bn_for_resampling: bool
    conv_bn_act_pattern: bool
    heads: tuple[str, ...] = (DETECTION,)
    num_classes: int | None = None
    anchors_per_location: int | None = None
    seg_num_classes: int | None = None

    @classmethod
    def from_answers(cls, answers: Mapping[str, Any]) -> DetectorArchitecture:
        """Build the architecture from the answers to the questions of the detector's table.

        A state_dict numbers levels from 0 and has no biases in front of batch norms: where it leaves a question open,
        the official default is the answer.

        Raises:
            UnsupportedSourceError: The heads do not predict boxes and classes for a whole number of anchors, or there
                is no head.
        """
        heads = tuple(head for head, question in zip(HEADS, ("detects", "segments"), strict=True) if answers[question])
        if not heads:
            raise UnsupportedSourceError(
                "an incomplete EfficientDet: expected class and box heads, or a segmentation head with its last layer; "
                "found neither. Copy the source again."
            )
        num_classes, anchors = _predictions(answers.get("class_channels"), answers.get("box_channels"))
        min_level = answers.get("min_level", BACKBONE_TOP - 2)
        num_levels = answers["num_levels"] if answers["detects"] else answers["upsamplings"] + 1
        return cls(
            **{name: answers[name] for name in ("backbone", "fpn_channels", "fpn_cells", "num_nodes")},
            head_repeats=answers.get("head_repeats"),
            min_level=min_level,
            max_level=min_level + num_levels - 1,
            fusion_weights=PER_CHANNEL if answers["channel_weights"] else SCALAR if answers["weighted"] else UNWEIGHTED,
            separable_conv=answers["separable_convs"],
            apply_bn_for_resampling=answers["resampling_bns"] or not answers["resampling_convs"],
            conv_bn_act_pattern=not answers.get("node_biases", True),
            heads=heads,
            num_classes=num_classes,
            anchors_per_location=anchors,
            seg_num_classes=answers.get("seg_classes"),
        )

    @property
    def detects(self) -> bool:
        """Whether there are heads that predict boxes and their classes."""
        return DETECTION in self.heads

    def decides(self, field: str) -> bool:
        """Whether names and shapes decide a field of the config."""
        return field in self.fields() and (self.detects or field not in LEVELS)

    def from_level(self, min_level: int) -> DetectorArchitecture:
        """Return the same number of levels from another one on, where only the heads would show the first."""
        if self.detects:
            return self
        return replace(self, min_level=min_level, max_level=min_level + self.max_level - self.min_level)

    def matches(self, config: EfficientDetConfig) -> bool:
        """Whether a variant has this architecture, whatever its heads and classes."""
        same = all(value == getattr(config, name) for name, value in self.fields().items() if name in ARCHITECTURE)
        return same and self.fusion_weights == weights_of(config.fusion) and self.num_nodes == len(config.cell)

    def variants(self, source: VariableSource | None = None) -> list[str]:
        """Return the variants with this architecture: none if it is a custom one, two for d6 and d7.

        A PyTorch file may also hold one that only the `effdet` package has. Official ones come first: in a file of
        this project, their biases may have been folded.
        """
        models = dict(VARIANTS)
        if source is not None and source.kind == PYTORCH_FILE:
            models |= {name: m for name, m in PACKAGE_VARIANTS.items() if m.redundant_bias != source.facts.is_folded}
        return [name for name, config in models.items() if self.matches(config)]

    def fusion(self, usual: Fusion) -> Fusion:
        """Return a kind of fusion with these weights: the usual one, or the closest to it."""
        if weights_of(usual) == self.fusion_weights:
            return usual
        choices: Mapping[str, Fusion] = {UNWEIGHTED: "sum", SCALAR: "fastattn", PER_CHANNEL: "channel_fastattn"}
        return choices[self.fusion_weights]

    def config(self) -> EfficientDetConfig:
        """Return a config with exactly these variables; of its anchors, only the number is right."""
        levels = range(self.min_level, self.max_level + 1)
        cells = [name for name, cell in CELLS.items() if len(cell(levels)) == self.num_nodes]
        base = get_config(variants_with(self.backbone)[0]) if variants_with(self.backbone) else get_config("d7x")
        side = 2 ** (self.max_level + 1) if self.seg_num_classes else base.image_size[0]  # that fits the head
        return get_config(
            base.name,
            image_size=side,
            **self.fields(),
            fusion=self.fusion(base.fusion),
            fpn_name=cells[-1] if cells else "bifpn",
            num_scales=self.anchors_per_location or base.anchors_per_location,
            aspect_ratios=(1.0,),
        )

    def fields(self) -> dict[str, Any]:
        """Return {field of the config: value} of what the variables need."""
        values = {name: getattr(self, name) for name in (*ARCHITECTURE, *OF_HEADS)}
        return {name: value for name, value in values.items() if value is not None}

    def describe(self) -> str:
        """Return the architecture in words."""
        parts = [
            f"{self.backbone}, BiFPN {self.fpn_cells} x {self.fpn_channels} channels, {self.fusion_weights} fusion",
            *([f"heads x {self.head_repeats}"] if self.detects else []),
            f"levels {self.min_level}-{self.max_level}",
            *([f"segmentation head of {self.seg_num_classes} classes"] if self.seg_num_classes else []),
        ]
        unusual = {
            "convolutions not separable": not self.separable_conv,
            "no batch norms after resampling": not self.apply_bn_for_resampling,
            "nodes activate last": self.conv_bn_act_pattern,
            "without predictions": self.detects and self.num_classes is None,
            f"{self.num_nodes} nodes per cell": self.num_nodes != 2 * (self.max_level - self.min_level),
        }
        return ", ".join([*parts, *(words for words, is_so in unusual.items() if is_so)])


def _predictions(classes: int | None, boxes: int | None) -> tuple[int | None, int | None]:
    """Return (classes, anchors per location), which the channels of the predictions show."""
    if boxes is None or classes is None:
        return None, None
    anchors, rest = divmod(boxes, 4)
    if rest or not anchors or classes % anchors:
        raise UnsupportedSourceError(
            f"a custom head: the box prediction has {boxes} channels (expected anchors x 4) and the class "
            f"prediction {classes} (expected anchors x classes)"
        )
    return classes // anchors, anchors


@dataclass(frozen=True)
class BackboneArchitecture:
    """A backbone without a detector."""

    backbone: str

    @classmethod
    def from_answers(cls, answers: Mapping[str, Any]) -> BackboneArchitecture:
        """Build the architecture from the answer to the only question of the backbone's table."""
        return cls(answers["backbone"])

    def variants(self, source: VariableSource | None = None) -> list[str]:
        """Return nothing: the variants are detectors."""
        return []

    def describe(self) -> str:
        """Return the architecture in words."""
        return f"{self.backbone}, without a detector"


def named_variant(text: str, alike: Sequence[str]) -> str | None:
    """Return the one of some variants that a text names, as the `effdet` package or as the official code writes it."""
    text = text.lower()
    package = [match[0] for match in PACKAGE_NAME.finditer(text)]
    official = OFFICIAL_NAME.sub("", text).partition("_")[0].partition("-")[0]
    return next((name for name in (*package, official) if name in alike), None)


def same_tensors(variant: str, candidates: Sequence[str], by_name: bool) -> str:
    """Return the note on a state_dict that may be an official network or a model of the `effdet` package's own."""
    others = " or ".join(f"--variant {name}" for name in candidates if name != variant)
    return (
        f"{' and '.join(candidates)} have the same tensors, but compute different outputs: {variant} is assumed"
        f"{' by the name of the file or its folder' if by_name else ''}; if that is wrong, pass {others}"
    )
