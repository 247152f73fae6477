"""EfficientDet variants as data, without torch: everything needed to build a model and prepare images for it.

Source: EfficientDet (arXiv:1911.09070) table 1; the official code's `hparams_config`, 2025-03.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, ClassVar, Literal

from effdet_torch.architecture.backbone import Block, Taps, require_taps, used_blocks
from effdet_torch.architecture.effdet_models import PACKAGE_MODELS, UNSUPPORTED_MODELS
from effdet_torch.architecture.feature_sizes import feature_sizes, require_doubling
from effdet_torch.architecture.names import did_you_mean, short_name, split_ending
from effdet_torch.architecture.pyramid import CELLS, Cell, Node, fpn_nodes, require_cell
from effdet_torch.checks import CHECKS, DETECTION, SEGMENTATION, require_type
from effdet_torch.errors import ConfigError

Fusion = Literal["fastattn", "attn", "sum", "channel_fastattn", "channel_attn"]
Activation = Literal["swish", "relu6", "relu", "hswish", "mish"]
Normalization = Literal["mean_std", "scale_range", "advprop"]
BackboneStyle = Literal["tensorflow", "pytorch"]
Resize = Literal["half_pixel", "legacy"]

SCORE_THRESHOLD = 0.3  # detections below it are shown on request only; metrics always take all


@dataclass(frozen=True)
class EfficientDetConfig:
    """Everything needed to build one EfficientDet, and to prepare images for it.

    Attributes:
        name: variant the values started from, for example "d0".
        backbone: TensorFlow scope of the backbone, a key of `BACKBONES` or `PACKAGE_BACKBONES`.
        image_size: (height, width) in pixels, of `LEAST_PIXELS` to `MOST_PIXELS` in `effdet_torch.checks`.
        fusion: how a node of the pyramid adds its inputs: "fastattn" (paper, section 3.3), "attn" (softmax) or "sum";
            with "channel_", every channel has its own weights.
        num_classes: class channels per anchor; the official COCO models have 90 (COCO category id - 1).
        aspect_ratios: width / height of the anchors; or the factors (width, height) of the anchor's size.
        anchor_scale: anchor size at octave 0 in units of the level's stride; one for all levels or one for each.
        normalization: "mean_std" subtracts and divides, then pads with 0; "scale_range" then maps every value x to
            x * 2 / 255 - 1, padding included; "advprop" is "scale_range" without mean and deviation.
        redundant_bias: keep the convolution biases in front of batch norms, as the official models store them.
        fpn_name: the graph of a pyramid cell, a key of `CELLS`.
        fpn_config: another graph, the nodes of a cell (see `pyramid`); empty for the one of `fpn_name`.
        survival_prob: of the heads' repeats in training. Above 0, a repeat adds its input, at inference as well.
        conv_after_downsample: pool before the 1x1 convolution of an input, not after it.
        conv_bn_act_pattern: a node activates after its batch norm, not before its convolution.
        apply_bn_for_resampling: batch norms follow the 1x1 convolutions of inputs.
        separable_conv: convolutions of nodes and heads are separable.
        nms_configs: official settings of the postprocessing that differ from the defaults, as (name, value).
        label_map: (category id, name) of the classes that have a name.
        padding: of max pooling in the pyramid; "symmetric" pads both ends alike, as PyTorch's own layers do.
        backbone_style: "pytorch" pads symmetrically in the backbone as well, with a batch norm epsilon of 1e-5.
        resampling: how the pyramid changes sizes: max pooling and nearest neighbours, or "bilinear" both ways.
        heads: "object_detection", "segmentation" or both.
        seg_num_classes: classes of a pixel; the background, if there is one, counts.
        taps: (stage, block) of the backbone's blocks that feed the pyramid, fine to coarse; empty for the last block of
            every stage, as in the paper. What lies behind the last one is no part of the model.
        resize: how images are resized: "half_pixel" samples at the centres of pixels, and truncates the new sides;
            "legacy" samples at their corners, as TensorFlow 1 does, and rounds the sides.
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
    aspect_ratios: tuple[float | tuple[float, float], ...] = (1.0, 2.0, 0.5)
    anchor_scale: float | tuple[float, ...] = 4.0
    normalization: Normalization = "mean_std"
    mean_rgb: tuple[float, float, float] = (123.675, 116.28, 103.53)
    std_rgb: tuple[float, float, float] = (58.395, 57.12, 57.375)
    redundant_bias: bool = False
    min_level: int = 3
    fpn_name: Literal["bifpn", "qufpn", "qufpn_upwards"] = "bifpn"
    fpn_config: Cell = ()
    survival_prob: float = 0.0
    conv_after_downsample: bool = False
    conv_bn_act_pattern: bool = False
    apply_bn_for_resampling: bool = True
    separable_conv: bool = True
    nms_configs: tuple[tuple[str, str | float], ...] = ()
    label_map: tuple[tuple[int, str], ...] = ()
    padding: Literal["same", "symmetric"] = "same"
    backbone_style: BackboneStyle = "tensorflow"
    resampling: Literal["max_nearest", "bilinear"] = "max_nearest"
    heads: tuple[str, ...] = (DETECTION,)
    seg_num_classes: int = 3
    taps: Taps = ()
    resize: Resize = "half_pixel"

    def __post_init__(self) -> None:
        for name, (is_valid, expected) in CHECKS.items():
            if not is_valid(value := getattr(self, name)):
                raise ConfigError(f"{name} is {value!r}; expected {expected}")
        if isinstance(self.anchor_scale, tuple) and len(self.anchor_scale) != len(self.levels):
            raise ConfigError(
                f"anchor_scale has {len(self.anchor_scale)} values; expected one, or {len(self.levels)} for the levels "
                f"{self.min_level} to {self.max_level}"
            )
        if outside := [number for number, _ in self.label_map if not 1 <= number <= self.num_classes]:
            raise ConfigError(f"label_map names category {outside[0]}; expected 1 to {self.num_classes}")
        require_cell(self.cell, self.levels)
        sizes = self.feature_sizes()
        if self.segments:
            require_doubling(sizes)
        if self.taps:
            require_taps(self.backbone, self.min_level, self.taps)

    @property
    def levels(self) -> range:
        """Pyramid levels, `min_level` (3: stride 8) to `max_level`."""
        return range(self.min_level, self.max_level + 1)

    @property
    def detects(self) -> bool:
        """Whether there are heads that predict boxes and their classes."""
        return DETECTION in self.heads

    @property
    def segments(self) -> bool:
        """Whether there is a head that predicts the classes of pixels."""
        return SEGMENTATION in self.heads

    @property
    def class_counts(self) -> str:
        """How many classes the heads predict, in words."""
        of_heads = {DETECTION: f"{self.num_classes} classes", SEGMENTATION: f"{self.seg_num_classes} classes of pixels"}
        return ", ".join(of_heads[head] for head in self.heads)

    @property
    def anchors_per_location(self) -> int:
        """Octave scales x aspect ratios."""
        return self.num_scales * len(self.aspect_ratios)

    @property
    def blocks(self) -> tuple[Block, ...]:
        """The inverted residual blocks of the backbone in execution order, up to the last one that feeds a level."""
        return used_blocks(self.backbone, self.taps)

    @property
    def cell(self) -> Cell:
        """The graph of one cell of the pyramid."""
        return self.fpn_config or CELLS[self.fpn_name](self.levels)

    @property
    def nodes(self) -> tuple[Node, ...]:
        """The nodes of all cells in execution order."""
        return fpn_nodes(self.cell, self.levels, self.backbone, self.fpn_channels, self.fpn_cells)

    def feature_sizes(self) -> dict[int, tuple[int, int]]:
        """Return {level: (height, width)} of the feature maps for `image_size`.

        Raises:
            ConfigError: The image is too small for the levels.
        """
        return feature_sizes(*self.image_size, self.min_level, self.max_level)

    def keeping_biases(self) -> EfficientDetConfig:
        """Return the config of the same model with the biases in front of batch norms."""
        return replace(self, redundant_bias=True)

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers, strings and lists, fit for JSON; `from_dict` is the inverse."""
        return {key: _plain(value) for key, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> EfficientDetConfig:
        """Build a config from `to_dict` output, also that of earlier versions, which had fewer settings.

        Raises:
            ConfigError: A key is unknown or missing, or a value has the wrong type or range.
        """
        _require_fields(values)
        try:
            return cls(**{key: _frozen(value) for key, value in values.items()})
        except (RecursionError, TypeError) as error:
            raise ConfigError(f"model settings do not form a config: {error}") from error


def _plain(value: Any) -> Any:
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


def _frozen(value: Any) -> Any:
    return tuple(_frozen(item) for item in value) if isinstance(value, list) else value


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


# Models that only the `effdet` package has. They have no TensorFlow original.
PACKAGE_VARIANTS: Mapping[str, EfficientDetConfig] = {
    name: EfficientDetConfig(name, backbone, (size, size), channels, cells, repeats, **other)
    for name, ((backbone, size, channels, cells, repeats), other) in PACKAGE_MODELS.items()
}
MODELS: Mapping[str, EfficientDetConfig] = {**VARIANTS, **PACKAGE_VARIANTS}


def list_models() -> list[str]:
    """Return the names of all models, smallest first in each family: the official variants, then those of `effdet`."""
    return list(MODELS)


def variants_with(backbone: str) -> list[str]:
    """Return the models that have a backbone, official ones first; none for an unknown name."""
    return [name for name, config in MODELS.items() if config.backbone == backbone]


def is_backbone(metadata: Mapping[str, Any]) -> bool:
    """Whether a converted file's metadata are those of a backbone without a detector."""
    config = metadata.get("config")
    return isinstance(config, dict) and set(config) == {"backbone"}


def model_name(name: str) -> str:
    """Return the key of `MODELS` that a name stands for, or its short official form: "d0" of "EfficientDet-D0"."""
    short, underscored = short_name(name), name.lower().replace("-", "_")
    is_own = underscored in PACKAGE_VARIANTS and (name.lower() == underscored or short not in VARIANTS)
    return underscored if is_own else short


def is_official(name: str) -> bool:
    """Whether a name is that of an official model, settings included: "d0", "tf_efficientdet_d0", "d4-640"."""
    return split_ending(model_name(name))[0] in VARIANTS


def get_config(variant: str, **overrides: Any) -> EfficientDetConfig:
    """Return the config of a variant, with some values replaced.

    Args:
        variant: "d0".."d7", "d7x", "lite0".."lite4", "lite3x"; also as "efficientdet-d0" or "tf_efficientdet_d0". A
            name as the `effdet` package writes it, such as "efficientdet_d0" or "efficientdet_q0", is its own model.
        **overrides: fields of `EfficientDetConfig`; an integer `image_size` means a square, and `label_map` may be a
            dictionary; classes that it leaves out are "class 7" and the like.

    Raises:
        UsageError: The variant is not a text.
        ConfigError: The variant or a field does not exist, or a value does not fit.
    """
    require_type(variant, str, "variant", "the name of a variant, see list_models()")
    name = model_name(variant)
    if name not in MODELS:
        if reason := UNSUPPORTED_MODELS.get(variant.lower()):
            raise ConfigError(f"{variant!r} of the effdet package is not supported: {reason}")
        base, settings = split_ending(name)
        if base in VARIANTS:
            raise ConfigError(
                f"{variant!r} is not a variant, but {base} with other settings: pass {base!r} and {settings}"
            )
        question = did_you_mean(name, VARIANTS) or did_you_mean(variant.lower(), PACKAGE_VARIANTS)
        raise ConfigError(f"unknown variant {variant!r}; known variants: {', '.join(MODELS)}{question}")
    return changed_config(MODELS[name], **overrides)


def changed_config(config: EfficientDetConfig, **overrides: Any) -> EfficientDetConfig:
    """Return a config with some values replaced; see `get_config` for their forms and the errors."""
    if isinstance(size := overrides.get("image_size"), int):
        overrides["image_size"] = (size, size)
    if isinstance(names := overrides.get("label_map"), Mapping):
        overrides["label_map"] = tuple(names.items())
    _require_fields(overrides)
    return replace(config, **overrides)


def _require_fields(names: Iterable[str]) -> None:
    known = [field.name for field in fields(EfficientDetConfig)]
    if unknown := sorted(set(names) - set(known)):
        wrong = unknown[0]
        raise ConfigError(
            f"unknown model setting {wrong!r}; known settings: {', '.join(known)}{did_you_mean(wrong, known)}"
        )
