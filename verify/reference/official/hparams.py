"""The official hyperparameters as the reference reads them: variant's defaults < `config.yaml` < what a user passed.

A second reading on purpose: it shares no code with the converter or the PyTorch model, so that the reference shows what
these misread.

Source: the official code's `hparams_config`, `efficientdet_keras`, `fpn_configs` and `anchors`, 2025-03.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from reprlib import Repr
from typing import Any

from verify.errors import ReferenceModelError
from verify.reference.official.defaults import BACKBONES, BLOCK_ARGS, BLOCKS, DEFAULTS, VARIANTS
from verify.reference.official.values import (
    FpnNode,
    one_of,
    read_aspects,
    read_color,
    read_flag,
    read_heads,
    read_nodes,
    read_numbers,
    read_size,
    read_whole,
)

Values = Mapping[str, Any]

_SHORT = Repr()
_SHORT.maxlevel = 2  # of nesting: aliases in a file can make a value that fills the memory as text
shorten = _SHORT.repr


@dataclass(frozen=True)
class Hparams:
    """What the reference computes with, under the official names.

    Attributes:
        name: the variant whose defaults apply: "d0".
        image_size: (height, width) in pixels; only the detector uses it.
        aspect_ratios: (width, height) factors of the anchors.
        anchor_scale: anchor size in strides; one for all levels, or one per level.
        scale_range: map what the normalisation gave from 0..255 to -1..1, after padding.
        survival_prob: whether there was one in training: then the heads add the input of a repeat, from repeat 1 on.
        heads: which of "object_detection" and "segmentation" there are.
        fpn_config: the nodes of a cell, where they are listed; then `fpn_name` has no effect.
    """

    name: str
    backbone_name: str
    act_type: str
    image_size: tuple[int, int]
    mean_rgb: tuple[float, ...]
    stddev_rgb: tuple[float, ...]
    scale_range: bool
    num_classes: int
    num_scales: int
    aspect_ratios: tuple[tuple[float, float], ...]
    anchor_scale: tuple[float, ...]
    min_level: int
    max_level: int
    fpn_num_filters: int
    fpn_cell_repeats: int
    box_class_repeats: int
    fpn_name: str
    fpn_weight_method: str
    fpn_config: tuple[FpnNode, ...] | None
    survival_prob: bool
    separable_conv: bool
    apply_bn_for_resampling: bool
    conv_after_downsample: bool
    conv_bn_act_pattern: bool
    heads: frozenset[str]
    seg_num_classes: int

    @property
    def levels(self) -> range:
        """Pyramid levels, finest first; a level's stride is 2 to its power."""
        return range(self.min_level, self.max_level + 1)

    @property
    def anchors_per_location(self) -> int:
        """Octave scales x aspect ratios."""
        return self.num_scales * len(self.aspect_ratios)


def read_hparams(*given: Values, variant: str = "") -> Hparams:
    """Read hyperparameters in the official syntax.

    Args:
        *given: names and values, weakest first, nested or with dots ("fpn_config.weight_method"); what concerns only
            training is ignored. A null replaces what is weaker: it is the official "not set".
        variant: whose defaults apply where no mapping has the `name` of one.

    Raises:
        ReferenceModelError: There is no variant, or a hyperparameter that the reference cannot compute.
    """
    stated = [name for name in (variant, *(_variant_name(values.get("name")) for values in given)) if name in VARIANTS]
    if not stated:
        raise ReferenceModelError(f"name: no official variant is named; known are {', '.join(VARIANTS)}")
    values: dict[str, Any] = {**DEFAULTS, **VARIANTS[stated[-1]]}
    for mapping in given:
        _override(values, {name: value for name, value in mapping.items() if name.partition(".")[0] in values})
    _refuse_unsupported(values)
    read = {name: _read(name, values[name], reader) for name, reader in READERS.items()}
    if config := values["fpn_config"]:  # decides about both, whatever else is set
        read["fpn_weight_method"] = _read("fpn_config.weight_method", config["weight_method"], one_of(*WEIGHT_METHODS))
    return _checked(Hparams(name=stated[-1], **read))


def _variant_name(name: object) -> str:
    return str(name).lower().removeprefix("efficientdet-")


def _override(values: dict[str, Any], mapping: Values) -> None:
    """Replace values as the official code does: a mapping is merged into a mapping, everything else is replaced."""
    for name, value in mapping.items():
        first, _, rest = str(name).partition(".")
        if rest:
            value = {rest: value}
        if isinstance(value, Mapping):
            inner = dict(values[first]) if isinstance(values.get(first), Mapping) else {}
            _override(inner, value)
            value = inner
        values[first] = value


def _refuse_unsupported(values: Values) -> None:
    """Refuse what no field of `Hparams` can say."""
    for stage, (found, expected) in enumerate(zip(_block_list(values["backbone_config"]), BLOCKS, strict=True)):
        for name, value, default in zip(BLOCK_ARGS, found, expected, strict=True):
            if value != default:
                raise ReferenceModelError(
                    f"backbone_config changes {name} of stage {stage} to {shorten(value)}; the reference computes the "
                    f"official blocks only, which have {default}"
                )
    if config := values["fpn_config"]:
        for part in ("nodes", "weight_method"):
            if not isinstance(config, Mapping) or part not in config:
                raise ReferenceModelError(f"fpn_config has no {part}, which the official code needs")


def _block_list(config: Any) -> list[tuple[Any, ...]]:
    if not config:
        return list(BLOCKS)
    blocks = config.get("blocks") if isinstance(config, Mapping) else None
    if not isinstance(blocks, (list, tuple)) or len(blocks) != len(BLOCKS):
        raise ReferenceModelError(f"backbone_config is {shorten(config)}; expected {len(BLOCKS)} blocks")
    for block in blocks:
        if not isinstance(block, (list, tuple)) or len(block) != len(BLOCK_ARGS):
            raise ReferenceModelError(f"backbone_config has the block {shorten(block)}; expected BlockArgs")
    return [tuple(list(value) if isinstance(value, tuple) else value for value in block) for block in blocks]


def _read(name: str, value: Any, reader: Callable[[Any], Any]) -> Any:
    try:
        return reader(value)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise ReferenceModelError(f"{name} is {shorten(value)}, which the reference cannot compute: {error}") from error


def _checked(hparams: Hparams) -> Hparams:
    """Refuse numbers that do not fit each other."""
    levels = hparams.levels
    if not (1 <= hparams.min_level <= 5 <= hparams.max_level <= 12 and len(levels) > 1):
        raise ReferenceModelError(
            f"min_level {hparams.min_level}, max_level {hparams.max_level}: the reference computes 1 to 5, and 5 to 12"
        )
    if len(hparams.anchor_scale) not in (1, len(levels)):
        raise ReferenceModelError(
            f"anchor_scale has {len(hparams.anchor_scale)} values; expected one, or one for each of the {len(levels)} "
            "levels"
        )
    for index, node in enumerate(hparams.fpn_config or ()):
        if node.level not in levels or any(not 0 <= offset < len(levels) + index for offset in node.inputs):
            raise ReferenceModelError(f"fpn_config: node {index} is {node}, but it can use the levels and nodes before")
    if hparams.fpn_config is not None and {node.level for node in hparams.fpn_config} != set(levels):
        raise ReferenceModelError(f"fpn_config has no node on some of the levels {levels[0]} to {levels[-1]}")
    return hparams


ACTIVATIONS = ("swish", "swish_native", "silu", "relu", "relu6", "hswish", "mish")
WEIGHT_METHODS = ("fastattn", "attn", "channel_fastattn", "channel_attn", "sum")

# Official name, which is the field's too -> how its value is read.
READERS: Mapping[str, Callable[[Any], Any]] = {
    "backbone_name": one_of(*BACKBONES),
    "act_type": one_of(*ACTIVATIONS),
    "image_size": read_size,
    "mean_rgb": read_color,
    "stddev_rgb": read_color,
    "scale_range": read_flag,
    "num_classes": read_whole,
    "num_scales": read_whole,
    "aspect_ratios": read_aspects,
    "anchor_scale": read_numbers,
    "min_level": read_whole,
    "max_level": read_whole,
    "fpn_num_filters": read_whole,
    "fpn_cell_repeats": read_whole,
    "box_class_repeats": read_whole,
    "fpn_name": one_of("bifpn", "bifpn_dyn", "qufpn", unset="bifpn"),
    "fpn_weight_method": one_of(*WEIGHT_METHODS, unset="fastattn"),
    "fpn_config": read_nodes,
    "survival_prob": lambda value: bool(float(value or 0)),
    "separable_conv": read_flag,
    "apply_bn_for_resampling": read_flag,
    "conv_after_downsample": read_flag,
    "conv_bn_act_pattern": read_flag,
    "heads": read_heads,
    "seg_num_classes": read_whole,
}
