"""How the value of one official hyperparameter is read; what cannot be read raises a ValueError or a TypeError.

Source: the official code's `hparams_config`, `utils.parse_image_size`, `anchors` and `fpn_configs`, 2025-03.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class FpnNode:
    """A node of a cell: its level, and its inputs by offset: the cell's inputs first (0 = finest), then its nodes."""

    level: int
    inputs: tuple[int, ...]


def read_flag(value: Any) -> bool:
    """Read true or false; null is false."""
    flags = {True: True, False: False, None: False, "true": True, "false": False}
    if value not in flags:
        raise ValueError("expected true or false")
    return flags[value]


def read_whole(value: Any) -> int:
    """Read a positive whole number."""
    if isinstance(value, bool) or float(value) != int(value) or int(value) < 1:
        raise ValueError("expected a positive whole number")
    return int(value)


def _items(value: Any) -> list[Any]:
    if isinstance(value, str):
        return value.split("*")
    return list(value) if isinstance(value, (list, tuple)) else [value]


def read_heads(value: Any) -> frozenset[str]:
    """Read the names of the heads, at least one; there are two."""
    known = {"object_detection", "segmentation"}
    if not (found := set(_items(value))) or not found <= known:
        raise ValueError(f"expected some of {', '.join(sorted(known))}")
    return frozenset(found)


def read_size(value: Any) -> tuple[int, int]:
    """Read (height, width) from a side, "WIDTHxHEIGHT", or (height, width)."""
    if isinstance(value, str) and "x" in value.lower():
        width, height = value.lower().split("x")  # the only place where the official code puts the width first
    else:
        height, width = value if isinstance(value, (list, tuple)) else (value, value)
    return read_whole(height), read_whole(width)


def read_numbers(value: Any) -> tuple[float, ...]:
    """Read one number or several, also as "1.0*2.0"."""
    if not (items := _items(value)):
        raise ValueError("expected at least one number")
    return tuple(float(item) for item in items)


def read_color(value: Any) -> tuple[float, ...]:
    """Read one number for each of three channels, or one for all."""
    numbers = read_numbers(value)
    if len(numbers) not in (1, 3):
        raise ValueError("expected one number or three")
    return numbers * (3 // len(numbers))


def read_aspects(value: Any) -> tuple[tuple[float, float], ...]:
    """Read (width, height) factors: pairs of them, or ratios at constant area."""
    if not (items := _items(value)):
        raise ValueError("expected at least one ratio")
    pairs = [item if isinstance(item, (list, tuple)) else (float(item) ** 0.5, float(item) ** -0.5) for item in items]
    return tuple((float(width), float(height)) for width, height in pairs)


def read_nodes(config: Any) -> tuple[FpnNode, ...] | None:
    """Read the nodes of `fpn_config`; None where it is not set."""
    if not config:
        return None
    nodes = []
    for node in config["nodes"]:
        offsets = node["inputs_offsets"]
        if not offsets or not all(type(offset) is int for offset in offsets):
            raise ValueError("inputs_offsets: expected whole numbers")
        nodes.append(FpnNode(read_whole(node["feat_level"]), tuple(offsets)))
    return tuple(nodes)


def one_of(*choices: str, unset: str = "") -> Callable[[Any], str]:
    """Return a reader of one of several names; null reads as `unset`, if that is one of them."""

    def read(value: Any) -> str:
        if (found := unset if value is None else value) not in choices:
            raise ValueError(f"expected one of {', '.join(choices)}")
        return str(found)

    return read
