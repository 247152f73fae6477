"""Hyperparameters in the official syntax: the `config.yaml` that training writes, or `key=value,...` as typed.

Source: the official code's `hparams_config` (names, `Config.override`, `parse_image_size`).
"""

from __future__ import annotations

import ast
import difflib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from converter.source import VariableSource
from effdet_torch.config import EfficientDetConfig
from effdet_torch.errors import ConfigError

CONFIG_FILE = "config.yaml"
OPTION = "--hparams"
METADATA = "its metadata"  # of a file that this project wrote
LISTS = (list, tuple)


class _TupleLoader(yaml.SafeLoader):
    """`yaml.SafeLoader` with the only other tag that training writes: `!!python/tuple`."""


def _read_tuple(loader: yaml.SafeLoader, node: yaml.SequenceNode) -> tuple[Any, ...]:
    return tuple(loader.construct_sequence(node, deep=True))  # refuses any other kind of node


_TupleLoader.add_constructor("tag:yaml.org,2002:python/tuple", _read_tuple)


def given_hparams(
    source: VariableSource, option: str | Mapping[str, Any] | None = None
) -> list[tuple[str, Mapping[str, Any]]]:
    """Return (origin, hyperparameters), weakest first: `config.yaml` beside a source, its own, the user's option.

    Args:
        source: its folder may hold a `config.yaml`.
        option: `--hparams`: the name of a YAML file, or `key=value,key=value`; or names and values.

    Raises:
        ConfigError: One of them cannot be read.
    """
    given: list[tuple[str, Mapping[str, Any]]] = []
    beside = source.facts.folder / CONFIG_FILE
    if source.facts.takes_config_file and beside.is_file():
        given.append((CONFIG_FILE, read_hparams_file(beside)))
    given += source.facts.given
    if isinstance(option, str):
        is_file = option.endswith((".yaml", ".yml"))
        option = read_hparams_file(Path(option)) if is_file else parse_hparams(option)
    if option:
        given.append((OPTION, option))
    return given


def read_hparams_file(path: Path) -> dict[str, Any]:
    """Read a YAML file of hyperparameters.

    Raises:
        ConfigError: The file cannot be read, is not safe YAML, or is not a mapping.
    """
    try:
        with path.open("rb") as stream:
            values = yaml.load(stream, Loader=_TupleLoader)  # noqa: S506 - derived from SafeLoader
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, ArithmeticError, AttributeError, LookupError, RecursionError, ValueError) as error:
        # All but the first: from PyYAML, for values that contradict their tag, such as `!!int ""`.
        problem = str(error).replace("\n", " ")
        raise ConfigError(
            f"{path} is not plain YAML ({problem}); fix it, or move it away and pass its values with --hparams"
        ) from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path} contains a {type(values).__name__}; expected names and values")
    return {str(key): value for key, value in values.items()}


def parse_hparams(text: str) -> dict[str, Any]:
    """Parse `key=value,key=value`, with lists as `1*2*3` and the image size as `640x384` (width x height).

    Raises:
        ConfigError: A pair has no name or no value.
    """
    values: dict[str, Any] = {}
    for pair in filter(None, (part.strip() for part in text.split(","))):
        key, equals, value = pair.partition("=")
        if not equals or not key.strip() or not value.strip():
            raise ConfigError(f"hyperparameter {pair!r} is not of the form key=value")
        items = [_literal(item.strip()) for item in value.split("*")]
        values[key.strip()] = items if len(items) > 1 else items[0]
    return values


def config_fields(hparams: Mapping[str, Any]) -> dict[str, Any]:
    """Turn official hyperparameters into fields of `EfficientDetConfig`; those that concern only training are ignored.

    Raises:
        ConfigError: A value is invalid, or selects an unsupported network.
    """
    for name, supported in FIXED.items():
        if hparams.get(name, supported) != supported:
            raise ConfigError(
                f"hyperparameter {name} is {hparams[name]!r}, which is unsupported; only {supported!r} is supported"
            )
    fields = {}
    for name, (field, read) in READERS.items():
        if hparams.get(name) is not None:
            try:
                fields[field] = read(hparams[name])
            except (ArithmeticError, KeyError, TypeError, ValueError) as error:
                raise ConfigError(f"hyperparameter {name} has the invalid value {hparams[name]!r} ({error})") from error
    return fields


def hparams_of(config: EfficientDetConfig) -> dict[str, Any]:
    """Return the official hyperparameters of a config as plain values; the inverse of `config_fields`."""
    height, width = config.image_size
    values = {name: getattr(config, field) for name, (field, _) in READERS.items()}
    values["image_size"] = height if height == width else f"{width}x{height}"
    values["scale_range"] = config.normalization == "advprop"
    lists = {name: list(value) for name, value in values.items() if isinstance(value, tuple)}
    return {"name": f"efficientdet-{config.name}", **values, **lists}


def stated_hparams(config: EfficientDetConfig, origins: Mapping[str, str]) -> dict[str, Any]:
    """Return the hyperparameters that the user passed on conversion, needed to prepare the same source again.

    Args:
        config: of a converted file.
        origins: the origins of its values, `config_origins` in its metadata.
    """
    values = hparams_of(config)
    return {name: values[name] for name, (field, _) in READERS.items() if origins.get(field) == OPTION}


def misspelled(hparams: Mapping[str, Any]) -> list[str]:
    """Return a note for every name that looks like a misspelling of a relevant one.

    Other unknown names concern only training. This is for options typed by hand, not for whole files.
    """
    known = [*READERS, *FIXED, "name"]
    close = {name: difflib.get_close_matches(name, known, n=1, cutoff=0.8) for name in hparams if name not in known}
    return [f"hyperparameter {name} is not used; did you mean {match[0]}?" for name, match in close.items() if match]


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return {"true": True, "false": False}.get(text.lower(), text)


def _integer(value: Any) -> int:
    number = int(value)
    if isinstance(value, bool) or (isinstance(value, float) and number != value):
        raise ValueError("expected an integer")
    return number


def read_image_size(value: Any) -> tuple[int, int]:
    """Return (height, width) from a side, "WIDTHxHEIGHT", or (height, width).

    Raises:
        ValueError: It is none of these.
    """
    if isinstance(value, str) and "x" in value.lower():
        width, height = value.lower().split("x")
        return _integer(height), _integer(width)
    if isinstance(value, LISTS):
        height, width = value
        return _integer(height), _integer(width)
    return _integer(value), _integer(value)


def _aspect_ratios(value: Any) -> tuple[float, ...]:
    ratios = value if isinstance(value, LISTS) else [value]
    if any(isinstance(ratio, LISTS) for ratio in ratios):
        raise ValueError("pairs of (width, height) factors are not supported, only width / height")
    if not ratios:
        raise ValueError("expected at least one")
    return tuple(map(float, ratios))


def _anchor_scale(value: Any) -> float:
    scales = set(map(float, value)) if isinstance(value, LISTS) else {float(value)}
    if len(scales) != 1:
        raise ValueError("expected one scale for all levels")
    return scales.pop()


def _one_of(choices: Mapping[Any, str]) -> Callable[[Any], str]:
    def read(value: Any) -> str:
        if value not in choices:
            raise ValueError(f"expected one of {', '.join(map(str, choices))}")
        return choices[value]

    return read


def _per_channel(value: Any) -> tuple[float, ...]:
    channels = tuple(map(float, value)) if isinstance(value, LISTS) else (float(value),) * 3
    if len(channels) != 3:
        raise ValueError("expected one number or three")
    return channels


# Official name -> (field of EfficientDetConfig, how its value is read).
READERS: Mapping[str, tuple[str, Callable[[Any], Any]]] = {
    "image_size": ("image_size", read_image_size),
    "num_classes": ("num_classes", _integer),
    "num_scales": ("num_scales", _integer),
    "aspect_ratios": ("aspect_ratios", _aspect_ratios),
    "anchor_scale": ("anchor_scale", _anchor_scale),
    "mean_rgb": ("mean_rgb", _per_channel),
    "stddev_rgb": ("std_rgb", _per_channel),
    "scale_range": ("normalization", _one_of({True: "advprop", False: "mean_std"})),
    "fpn_weight_method": ("fusion", str),
    "act_type": ("activation", _one_of({"swish": "swish", "swish_native": "swish", "relu6": "relu6"})),
    "backbone_name": ("backbone", str),
    "fpn_num_filters": ("fpn_channels", _integer),
    "fpn_cell_repeats": ("fpn_cells", _integer),
    "box_class_repeats": ("head_repeats", _integer),
    "max_level": ("max_level", _integer),
}

# Official switches that change what the network computes without changing a single name or shape.
FIXED: Mapping[str, Any] = {
    "min_level": 3,
    "separable_conv": True,
    "apply_bn_for_resampling": True,
    "conv_after_downsample": False,
    "conv_bn_act_pattern": False,
}
