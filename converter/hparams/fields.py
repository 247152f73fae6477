"""What hyperparameters mean: official names and values <-> fields of `EfficientDetConfig`.

Source: the official code's `hparams_config`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from converter.hparams import values as read
from converter.hparams.known import require_known
from effdet_torch.config import PACKAGE_VARIANTS, EfficientDetConfig
from effdet_torch.errors import ConfigError

OPTION = "--hparams"
METADATA = "its metadata"  # of a file that this project wrote


class Meaning(NamedTuple):
    """What a hyperparameter sets.

    Attributes:
        name: the official name.
        field: of the config; "" if its value is only checked.
        read: value -> value of the field; raises ValueError.
        if_null: the field's value where the official value is null; None if null is not a value.
    """

    name: str
    field: str
    read: Callable[[Any], Any]
    if_null: Any = None


FPN_NAMES = {"bifpn": "bifpn", "bifpn_dyn": "bifpn", "qufpn": "qufpn", "qufpn_upwards": "qufpn_upwards"}
PACKAGE_SETTINGS = ("padding", "backbone_style", "resampling")
# A later line replaces what an earlier one sets.
REPLACES_METHOD = Meaning("fpn_config", "fusion", read.weight_method)
MEANINGS: tuple[Meaning, ...] = (
    Meaning("image_size", "image_size", read.image_size),
    Meaning("num_classes", "num_classes", read.integer),
    Meaning("num_scales", "num_scales", read.integer),
    Meaning("aspect_ratios", "aspect_ratios", read.aspect_ratios),
    Meaning("anchor_scale", "anchor_scale", read.anchor_scale),
    Meaning("mean_rgb", "mean_rgb", read.per_channel),
    Meaning("stddev_rgb", "std_rgb", read.per_channel),
    Meaning("scale_range", "normalization", read.one_of({True: "scale_range", False: "mean_std"})),
    Meaning("act_type", "activation", read.activation),
    Meaning("backbone_name", "backbone", str),
    Meaning("backbone_config", "", read.backbone_config, ()),
    Meaning("fpn_num_filters", "fpn_channels", read.integer),
    Meaning("fpn_cell_repeats", "fpn_cells", read.integer),
    Meaning("fpn_weight_method", "fusion", read.one_of({name: name for name in read.FUSIONS}), "fastattn"),
    Meaning("fpn_name", "fpn_name", read.one_of(FPN_NAMES), "bifpn"),
    Meaning("fpn_config", "fpn_config", read.nodes, ()),
    REPLACES_METHOD,
    Meaning("box_class_repeats", "head_repeats", read.integer),
    Meaning("survival_prob", "survival_prob", read.number, 0.0),
    Meaning("heads", "heads", read.heads),
    Meaning("seg_num_classes", "seg_num_classes", read.integer),
    Meaning("min_level", "min_level", read.integer),
    Meaning("max_level", "max_level", read.integer),
    Meaning("separable_conv", "separable_conv", read.switch),
    Meaning("apply_bn_for_resampling", "apply_bn_for_resampling", read.switch),
    Meaning("conv_after_downsample", "conv_after_downsample", read.switch),
    Meaning("conv_bn_act_pattern", "conv_bn_act_pattern", read.switch),
    Meaning("nms_configs", "nms_configs", read.nms_configs, ()),
    Meaning("label_map", "label_map", read.label_map, ()),
    # Not official: what the models of the `effdet` package have, and no variable shows.
    *(Meaning(name, name, str, getattr(EfficientDetConfig, name)) for name in PACKAGE_SETTINGS),
    # Not official: they are written only where they are set.
    Meaning("taps", "taps", read.taps, ()),
    Meaning("resize", "resize", read.one_of({"half_pixel": "half_pixel", "legacy": "legacy"}), "half_pixel"),
)
# Name -> the value that every official model has, and what the official code does.
NOT_OFFICIAL: Mapping[str, tuple[Any, str]] = {
    "taps": ([], "feeds the BiFPN with the last block of every stage"),
    "resize": ("half_pixel", "samples images at the centres of pixels"),
}
NAME = "name"  # of the variant, which is no field of its own


class Stated(NamedTuple):
    """A value of a config field, the hyperparameter that sets it, and where that was stated."""

    value: Any
    name: str
    origin: str


def stated_fields(given: Mapping[str, tuple[str, Any]]) -> dict[str, Stated]:
    """Turn official hyperparameters into fields of `EfficientDetConfig`; those without effect are left out.

    Args:
        given: {official name: (origin, value)}.

    Raises:
        ConfigError: A value is invalid, or selects an unsupported network.
    """
    fields: dict[str, Stated] = {}
    for meaning in MEANINGS:
        origin, value = given.get(meaning.name, ("", None))
        if not origin or (value is None and meaning is REPLACES_METHOD):
            continue
        if value is None and meaning.if_null is None:
            raise ConfigError(f"{origin}: the hyperparameter {meaning.name} is null; expected a value")
        try:
            found = meaning.if_null if value is None else meaning.read(value)
        except (ArithmeticError, KeyError, TypeError, ValueError) as error:
            raise ConfigError(
                f"{origin}: the hyperparameter {meaning.name}{_shown(value)} is not supported: {error}"
            ) from error
        if meaning.field:
            fields[meaning.field] = Stated(found, meaning.name, origin)
    return _without_scaling(fields)


def _without_scaling(fields: dict[str, Stated]) -> dict[str, Stated]:
    """Say "advprop" for the official settings that come to the same."""
    scaling = tuple(fields[name].value if name in fields else None for name in ("normalization", "mean_rgb", "std_rgb"))
    if scaling == ("scale_range", (0.0,) * 3, (1.0,) * 3):
        fields["normalization"] = fields["normalization"]._replace(value="advprop")
    return fields


def config_fields(hparams: Mapping[str, Any], origin: str = OPTION) -> dict[str, Any]:
    """Return the config fields that official hyperparameters of one origin set, see `stated_fields`.

    Raises:
        ConfigError: A name is unknown, or a value invalid or unsupported.
    """
    require_names(hparams, origin)
    stated = stated_fields({name: (origin, value) for name, value in hparams.items()})
    return {field: found.value for field, found in stated.items()}


def require_names(hparams: Mapping[str, Any], origin: str) -> None:
    """Check that all names are official hyperparameters.

    Raises:
        ConfigError: One is not.
    """
    require_known(hparams, [NAME, *(meaning.name for meaning in MEANINGS)], origin)


def hparams_of(config: EfficientDetConfig) -> dict[str, Any]:
    """Return the official hyperparameters of a config as plain values; the inverse of `config_fields`."""
    height, width = config.image_size
    fields = {meaning.name: _plain(getattr(config, meaning.field)) for meaning in MEANINGS if meaning.field}
    graph = [{"feat_level": level, "inputs_offsets": list(offsets)} for level, offsets in config.fpn_config]
    special = {
        "image_size": height if height == width else f"{width}x{height}",
        "scale_range": config.normalization != "mean_std",
        "fpn_weight_method": config.fusion,
        "fpn_config": {"nodes": graph, "weight_method": config.fusion} if graph else None,
        "survival_prob": config.survival_prob or None,
        "backbone_config": None,  # the backbone's own blocks: others are refused
        "nms_configs": dict(config.nms_configs) or None,
        "label_map": dict(config.label_map) or None,
    }
    if config.normalization == "advprop":
        special |= {"mean_rgb": 0.0, "stddev_rgb": 1.0}
    special |= {name: None for name in PACKAGE_SETTINGS if fields[name] == getattr(EfficientDetConfig, name)}
    name = config.name if config.name in PACKAGE_VARIANTS else f"efficientdet-{config.name}"
    found = {NAME: name, **fields, **special}
    return {name: value for name, value in found.items() if name not in NOT_OFFICIAL or value != NOT_OFFICIAL[name][0]}


def config_file_hparams(config: EfficientDetConfig) -> dict[str, Any]:
    """Return the hyperparameters for a `config.yaml`: the official code refuses other names even if they are null."""
    return {name: value for name, value in hparams_of(config).items() if name not in PACKAGE_SETTINGS}


def not_official(config: EfficientDetConfig) -> str:
    """Return why the official code cannot run a network, in words; empty if it can."""
    values = hparams_of(config)
    found = (
        f"the official code {does}, not {name} {values[name]}"
        for name, (_, does) in NOT_OFFICIAL.items()
        if name in values
    )
    return next(found, "")


def stated_hparams(config: EfficientDetConfig, origins: Mapping[str, str]) -> dict[str, Any]:
    """Return the hyperparameters that the user passed on conversion.

    Args:
        config: of a converted file.
        origins: the origins of its values, `config_origins` in its metadata.
    """
    values = hparams_of(config)
    stated = [meaning.name for meaning in MEANINGS if origins.get(meaning.field) == OPTION]
    return {name: values[name] for name in stated if values.get(name) is not None}  # null: the default


def _plain(value: Any) -> Any:
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


def _shown(value: Any) -> str:
    text = f" = {value!r}"
    return text if len(text) <= 80 else ""
