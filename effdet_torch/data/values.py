"""Values as people's tools write them: numbers as text, true for 1, ids of any kind."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

WHOLE = re.compile(r"-?[0-9]+(\.0*)?")
NUMERIC = (int, float, str)  # a union would be made anew at every look; data sets have millions of numbers
Key = int | str  # an id: its number, or a text that is not a number
ROUNDING = 0.01  # shares of an image's sides are rounded, and boxes at an edge may lie this far outside
USUAL_IDS = 2**53  # larger ones lose digits in floating-point numbers, where pycocotools keeps ids


def number(value: Any) -> float | None:
    """Return a finite number, also one that is written as text; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, NUMERIC):
        return None
    try:
        found = float(value)
    except (ValueError, OverflowError):
        return None
    return found if math.isfinite(found) else None


def key(value: Any) -> Key | None:
    """Return an id, the same one for 7, 7.0, "7" and "7.0"; None for what is not an id."""
    if isinstance(value, bool) or value is None or value == "":
        return None
    if isinstance(value, int):
        return value
    if isinstance(value, float):
        return int(value) if value.is_integer() else None
    if not isinstance(value, str):
        return None
    text = value.strip()
    try:
        return int(text.partition(".")[0]) if WHOLE.fullmatch(text) else text or None
    except ValueError:  # more digits than Python converts
        return text


def is_usual(identifier: Key | None) -> bool:
    """Whether an id is a number that keeps its value everywhere; None, for no id, is not."""
    return isinstance(identifier, int) and abs(identifier) < USUAL_IDS


def image_ids(stems: list[str]) -> list[int]:
    """Return the numbers of images that have names: the names, if all are different numbers; else 1, 2, ..."""
    numbers = [key(stem) for stem in stems]
    if len(set(numbers)) == len(stems) and all(isinstance(x, int) and is_usual(x) for x in numbers):
        return [int(stem) for stem in stems]
    return list(range(1, len(stems) + 1))


def flag(value: Any) -> int | None:
    """Return 0 or 1 for what means it; None for anything else."""
    texts = {"true": 1, "false": 0}
    found = texts.get(value.strip().lower(), number(value)) if isinstance(value, str) else value
    return int(found) if isinstance(found, int | float) and found in (0, 1) else None


def box(value: Any) -> tuple[float, float, float, float] | None:
    """Return four finite numbers; None for anything else."""
    if not isinstance(value, Sequence) or isinstance(value, str) or len(value) != 4:
        return None
    numbers = [number(side) for side in value]
    if any(side is None for side in numbers):
        return None
    x, y, width, height = (side for side in numbers if side is not None)
    return x, y, width, height


def size(width: Any, height: Any) -> tuple[int, int] | None:
    """Return (width, height) in whole pixels; None if one is missing or not positive."""
    sides = [number(side) for side in (width, height)]
    whole = [round(side) for side in sides if side is not None and side > 0.5]
    return (whole[0], whole[1]) if len(whole) == 2 else None
