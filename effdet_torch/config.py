"""EfficientDet variants as data, without torch: everything needed to build a model and prepare images for it.

Source: EfficientDet (arXiv:1911.09070) table 1; the official code's `hparams_config`, 2025-03.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, ClassVar, Literal

from effdet_torch.architecture import (
    BACKBONES,
    MIN_LEVEL,
    Block,
    Node,
    backbone_blocks,
    bifpn_nodes,
    feature_sizes,
)
from effdet_torch.errors import ConfigError

LARGEST = 1e9  # above any ratio, scale or colour; infinity and NaN fail the comparison
Fusion = Literal["fastattn", "attn", "sum"]
Activation = Literal["swish", "relu6"]
Normalization = Literal["mean_std", "advprop"]


@dataclass(frozen=True)
class EfficientDetConfig:
    """Everything needed to build one EfficientDet, and to prepare images for it.

    Attributes:
        name: variant the values started from, for example "d0".
        backbone: TensorFlow scope of the backbone, a key of `BACKBONES`.
        image_size: (height, width) in pixels; any positive size.
        fusion: how a BiFPN node adds its inputs: "fastattn" (paper, section 3.3), "attn" (softmax) or "sum".
        num_classes: class channels per anchor; the official COCO models have 90 (COCO category id - 1).
        aspect_ratios: width / height of the anchors.
        anchor_scale: anchor size at octave 0 in units of the level's stride.
        normalization: "mean_std" subtracts and divides, then pads with 0; "advprop" pads, then maps 0..255 to -1..1.
        redundant_bias: keep the convolution biases in front of batch norms, as the official models store them.
    """

    name: str
    backbone: str
    image_size: tuple[int, int]
    fpn_channels: int
    fpn_cells: int
    head_repeats: int
    max_level: int = 7
    fusion: Fusion = "fastattn"
    activation: Activation = "swish"
    num_classes: int = 90
    num_scales: int = 3
    aspect_ratios: tuple[float, ...] = (1.0, 2.0, 0.5)
    anchor_scale: float = 4.0
    normalization: Normalization = "mean_std"
    mean_rgb: tuple[float, float, float] = (123.675, 116.28, 103.53)
    std_rgb: tuple[float, float, float] = (58.395, 57.12, 57.375)
    redundant_bias: bool = False

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            _require(getattr(self, name) in choices, name, getattr(self, name), f"one of {', '.join(choices)}")
        for name in ("fpn_channels", "fpn_cells", "head_repeats", "num_classes", "num_scales"):
            _require(_is_positive_int(getattr(self, name)), name, getattr(self, name), "a positive integer")
        _require(_is_positive_int(self.max_level) and 5 <= self.max_level <= 12, "max_level", self.max_level, "5 to 12")
        _require(_is_pair(self.image_size), "image_size", self.image_size, "(height, width), two positive integers")
        _require(_are_positive(self.aspect_ratios), "aspect_ratios", self.aspect_ratios, "positive numbers")
        _require(_are_positive((self.anchor_scale,)), "anchor_scale", self.anchor_scale, "a positive number")
        _require(_are_positive(self.std_rgb, 3), "std_rgb", self.std_rgb, "three positive numbers")
        _require(_are_numbers(self.mean_rgb, 3), "mean_rgb", self.mean_rgb, "three numbers")
        _require(isinstance(self.redundant_bias, bool), "redundant_bias", self.redundant_bias, "true or false")

    @property
    def levels(self) -> range:
        """Pyramid levels, 3 (stride 8) to `max_level`."""
        return range(MIN_LEVEL, self.max_level + 1)

    @property
    def anchors_per_location(self) -> int:
        """Octave scales x aspect ratios."""
        return self.num_scales * len(self.aspect_ratios)

    @property
    def blocks(self) -> tuple[Block, ...]:
        """The inverted residual blocks of the backbone in execution order."""
        return backbone_blocks(self.backbone)

    @property
    def nodes(self) -> tuple[Node, ...]:
        """The nodes of all BiFPN cells in execution order."""
        return bifpn_nodes(self.backbone, self.levels, self.fpn_channels, self.fpn_cells)

    def feature_sizes(self) -> dict[int, tuple[int, int]]:
        """Return {level: (height, width)} of the feature maps for `image_size`.

        Raises:
            ConfigError: The image is too small for the levels.
        """
        return feature_sizes(*self.image_size, MIN_LEVEL, self.max_level)

    def keeping_biases(self) -> EfficientDetConfig:
        """Return the config of the same model with the biases in front of batch norms."""
        return replace(self, redundant_bias=True)

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers, strings and lists, fit for JSON; `from_dict` is the inverse."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> EfficientDetConfig:
        """Build a config from `to_dict` output.

        Raises:
            ConfigError: A key is unknown or missing, or a value has the wrong type or range.
        """
        known = [field.name for field in fields(cls)]
        if unknown := sorted(set(values) - set(known)):
            raise ConfigError(f"unknown model setting {unknown[0]!r}; known settings: {', '.join(known)}")
        settings: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in values.items()}
        try:
            return cls(**settings)
        except TypeError as error:
            raise ConfigError(f"model settings do not form a config: {error}") from error


@dataclass(frozen=True)
class BackboneConfig:
    """An EfficientNet without a detector.

    Attributes:
        backbone: TensorFlow scope of the backbone, a key of `BACKBONES`.
    """

    backbone: str
    redundant_bias: ClassVar[bool] = False  # there are none in a backbone

    @property
    def name(self) -> str:
        """The backbone's name."""
        return self.backbone

    def keeping_biases(self) -> BackboneConfig:
        """Return the config itself: a backbone has no biases in front of batch norms."""
        return self

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, fit for JSON; `is_backbone` recognises them."""
        return asdict(self)


def _require(valid: bool, name: str, value: object, expected: str) -> None:
    if not valid:
        raise ConfigError(f"{name} is {value!r}; expected {expected}")


def _is_positive_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _is_pair(value: object) -> bool:
    return isinstance(value, tuple) and len(value) == 2 and all(map(_is_positive_int, value))


def _are_numbers(values: object, count: int | None = None) -> bool:
    if not isinstance(values, tuple) or not values or count not in (None, len(values)):
        return False
    return all(isinstance(value, (int, float)) and -LARGEST < value < LARGEST for value in values)


def _are_positive(values: object, count: int | None = None) -> bool:
    return _are_numbers(values, count) and isinstance(values, tuple) and min(values) > 0


_CHOICES: Mapping[str, tuple[str, ...]] = {
    "backbone": tuple(BACKBONES),
    "fusion": ("fastattn", "attn", "sum"),
    "activation": ("swish", "relu6"),
    "normalization": ("mean_std", "advprop"),
}


def _variant(
    name: str, backbone: str, size: int, channels: int, cells: int, repeats: int, **other: Any
) -> EfficientDetConfig:
    return EfficientDetConfig(name, f"efficientnet-{backbone}", (size, size), channels, cells, repeats, **other)


_LITE: Mapping[str, Any] = {
    "fusion": "sum",
    "activation": "relu6",
    "mean_rgb": (127.0, 127.0, 127.0),
    "std_rgb": (128.0, 128.0, 128.0),
}


VARIANTS: Mapping[str, EfficientDetConfig] = {
    config.name: config
    for config in (
        # name, backbone, image size, BiFPN channels, BiFPN cells, head repeats
        _variant("d0", "b0", 512, 64, 3, 3),
        _variant("d1", "b1", 640, 88, 4, 3),
        _variant("d2", "b2", 768, 112, 5, 3),
        _variant("d3", "b3", 896, 160, 6, 4),
        _variant("d4", "b4", 1024, 224, 7, 4),
        _variant("d5", "b5", 1280, 288, 7, 4),
        _variant("d6", "b6", 1280, 384, 8, 5, fusion="sum"),
        _variant("d7", "b6", 1536, 384, 8, 5, fusion="sum", anchor_scale=5.0),
        _variant("d7x", "b7", 1536, 384, 8, 5, fusion="sum", max_level=8),
        _variant("lite0", "lite0", 320, 64, 3, 3, anchor_scale=3.0, **_LITE),
        _variant("lite1", "lite1", 384, 88, 4, 3, anchor_scale=3.0, **_LITE),
        _variant("lite2", "lite2", 448, 112, 5, 3, anchor_scale=3.0, **_LITE),
        _variant("lite3", "lite3", 512, 160, 6, 4, anchor_scale=4.0, **_LITE),
        _variant("lite3x", "lite3", 640, 200, 6, 4, anchor_scale=3.0, **_LITE),
        _variant("lite4", "lite4", 640, 224, 7, 4, anchor_scale=4.0, **_LITE),
    )
}


def list_models() -> list[str]:
    """Return the names of all variants, smallest first in each family."""
    return list(VARIANTS)


def variants_with(backbone: str) -> list[str]:
    """Return the variants that have a backbone, smallest first; none for an unknown name."""
    return [name for name, config in VARIANTS.items() if config.backbone == backbone]


def is_backbone(metadata: Mapping[str, Any]) -> bool:
    """Whether a converted file's metadata are those of a backbone without a detector."""
    config = metadata.get("config")
    return isinstance(config, dict) and set(config) == {"backbone"}


def get_config(variant: str, **overrides: Any) -> EfficientDetConfig:
    """Return the config of a variant, with some values replaced.

    Args:
        variant: "d0".."d7", "d7x", "lite0".."lite4", "lite3x"; the official "efficientdet-d0" is accepted too.
        **overrides: fields of `EfficientDetConfig`; an integer `image_size` means a square.

    Raises:
        ConfigError: The variant or a field does not exist, or a value does not fit.
    """
    name = variant.lower().removeprefix("efficientdet-")
    if name not in VARIANTS:
        close = difflib.get_close_matches(name, VARIANTS, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ConfigError(f"unknown variant {variant!r}; known variants: {', '.join(VARIANTS)}{hint}")
    if isinstance(size := overrides.get("image_size"), int):
        overrides["image_size"] = (size, size)
    try:
        return replace(VARIANTS[name], **overrides)
    except TypeError as error:
        raise ConfigError(f"unknown model setting for {name}: {error}") from error
