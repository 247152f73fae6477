"""Read the values of hyperparameters; a value that cannot be read is a ValueError, which says what is expected."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from converter.hparams.blocks import require_own_blocks
from effdet_torch.architecture.pyramid import Cell
from effdet_torch.checks import HEADS, NMS_CHECKS, NMS_NAMES

LISTS = (list, tuple)
FUSIONS = ("fastattn", "attn", "sum", "channel_fastattn", "channel_attn")
_VOC = """
    aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike person pottedplant sheep
    sofa train tvmonitor
"""
# Label maps that the official code knows by name.
LABEL_MAPS: Mapping[str, tuple[str, ...]] = {
    "waymo": ("vehicle", "pedestrian", "cyclist"),
    "voc": tuple(_VOC.split()),
}


def integer(value: Any) -> int:
    """Return an integer, also one that is written as a float."""
    number = int(value)
    if isinstance(value, bool) or (isinstance(value, float) and number != value):
        raise ValueError("expected an integer")
    return number


def switch(value: Any) -> bool:
    """Return true or false."""
    if not isinstance(value, bool):
        raise ValueError("expected true or false")
    return value


def one_of(choices: Mapping[Any, str]) -> Callable[[Any], str]:
    """Return the reader of a value out of several."""

    def read(value: Any) -> str:
        if isinstance(value, (list, tuple, Mapping)) or value not in choices:
            raise ValueError(f"expected one of {', '.join(map(str, choices))}")
        return choices[value]

    return read


def image_size(value: Any) -> tuple[int, int]:
    """Return (height, width) from a side, "WIDTHxHEIGHT", or (height, width)."""
    sides = value.lower().split("x")[::-1] if isinstance(value, str) else value
    sides = list(sides) if isinstance(sides, LISTS) else [sides]
    try:
        height, width = map(integer, sides * (2 if len(sides) == 1 else 1))
    except (OverflowError, TypeError, ValueError) as error:
        raise ValueError("expected a side, WIDTHxHEIGHT, or (height, width), in pixels") from error
    return height, width


def aspect_ratios(value: Any) -> tuple[float | tuple[float, float], ...]:
    """Return ratios width / height, or pairs of factors (width, height)."""
    ratios = value if isinstance(value, LISTS) else [value]
    if not ratios:
        raise ValueError("expected at least one")
    return tuple(_pair(ratio) if isinstance(ratio, LISTS) else number(ratio) for ratio in ratios)


def _pair(value: Any) -> tuple[float, float]:
    width, height = map(number, value)
    return width, height


def number(value: Any) -> float:
    """Return a number; true and false are none."""
    if isinstance(value, bool):
        raise ValueError("expected a number")
    return float(value)


def anchor_scale(value: Any) -> float | tuple[float, ...]:
    """Return one scale, or one for every level."""
    scales = tuple(map(number, value)) if isinstance(value, LISTS) else (number(value),)
    if not scales:
        raise ValueError("expected at least one")
    return scales if len(scales) > 1 else scales[0]


def per_channel(value: Any) -> tuple[float, ...]:
    """Return one value per colour."""
    channels = tuple(map(number, value)) if isinstance(value, LISTS) else (number(value),) * 3
    if len(channels) != 3:
        raise ValueError("expected one number or three")
    return channels


def nodes(value: Any) -> Cell:
    """Return the nodes of an `fpn_config`."""
    if not isinstance(value, Mapping) or not isinstance(value.get("nodes"), LISTS):
        raise ValueError("expected nodes, each with feat_level and inputs_offsets")
    try:
        return tuple(
            (integer(node["feat_level"]), tuple(integer(offset) for offset in node["inputs_offsets"]))
            for node in value["nodes"]
        )
    except (KeyError, TypeError) as error:
        raise ValueError(f"a node lacks feat_level or inputs_offsets ({error})") from error


def weight_method(value: Any) -> str:
    """Return the weight method of an `fpn_config`, the only one that counts: those of its nodes are not used."""
    if not isinstance(value, Mapping) or value.get("weight_method") not in FUSIONS:
        raise ValueError(f"expected a weight_method beside its nodes, one of {', '.join(FUSIONS)}")
    return str(value["weight_method"])


def nms_configs(value: Any) -> tuple[tuple[str, str | float], ...]:
    """Return the settings of the postprocessing that differ from the official defaults."""
    if not isinstance(value, Mapping):
        raise ValueError(f"expected names ({', '.join(NMS_NAMES)}) and values")
    if unknown := sorted(map(str, set(value) - {*NMS_NAMES, "pyfunc"})):
        raise ValueError(f"unknown setting {unknown[0]}; known are {', '.join(NMS_NAMES)}")
    if value.get("method") not in (None, "", "hard", "gaussian"):
        raise ValueError(f"method is {value['method']!r}; expected hard or gaussian")
    given = {name: value[name] for name in NMS_NAMES if value.get(name)}  # None and 0 mean the default
    if "method" in value and not value["method"]:
        given["method"] = "hard"
    defaults = {"method": "gaussian", "max_output_size": 100}
    for name, found in given.items():
        is_valid, expected = NMS_CHECKS[name]
        if not is_valid(found):
            raise ValueError(f"{name} is {found!r}; expected {expected}")
    return tuple((name, found) for name, found in given.items() if found != defaults.get(name))


def taps(value: Any) -> tuple[tuple[int, int], ...]:
    """Return (stage, block) of the blocks that feed the pyramid."""
    try:
        return tuple((integer(stage), integer(block)) for stage, block in value)
    except (TypeError, ValueError) as error:
        raise ValueError("expected pairs (stage, block)") from error


def label_map(value: Any) -> tuple[tuple[int, str], ...]:
    """Return (category id, name) from a mapping of them, or the name of a map that the official code knows."""
    if isinstance(value, str) and value in LABEL_MAPS:
        return tuple(enumerate(LABEL_MAPS[value], start=1))
    if value == "coco":
        return ()  # the names of a model with COCO's 90 classes
    if not isinstance(value, Mapping):
        raise ValueError("expected category ids and names; a file of them must be passed with --hparams FILE")
    names = [(integer(category), name) for category, name in value.items()]
    if len(dict(names)) != len(names):
        raise ValueError("a category has two names")
    if wrong := [name for _, name in names if isinstance(name, bool) or not isinstance(name, (str, int, float))]:
        raise ValueError(f"the name {wrong[0]!r} is not text; put it in quotes")
    return tuple((category, str(name)) for category, name in names)


def heads(value: Any) -> tuple[str, ...]:
    """Return the names of the heads, in the official order of their outputs."""
    given = value if isinstance(value, LISTS) else [value]
    if not given or any(head not in HEADS for head in given):
        raise ValueError(f"expected one or both of {', '.join(HEADS)}")
    return tuple(head for head in HEADS if head in given)


def backbone_config(value: Any) -> None:
    """Check that the blocks of the backbone are its own."""
    require_own_blocks(value)


def activation(value: Any) -> str:
    """Return our name of an activation."""
    if value == "srelu":
        raise ValueError("it learns a parameter at every place where it is used")
    return one_of(ACTIVATIONS)(value)


ACTIVATIONS: Mapping[Any, str] = {
    "swish": "swish",
    "swish_native": "swish",
    "silu": "swish",
    "hswish": "hswish",
    "relu": "relu",
    "relu6": "relu6",
    "mish": "mish",
}
