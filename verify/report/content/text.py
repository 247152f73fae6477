"""Numbers and names as text."""

from __future__ import annotations

from collections.abc import Iterable


def counted(count: int, noun: str) -> str:
    """Return a count with its noun, in the plural unless the count is 1."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def percent(share: float) -> str:
    """Return a share as a number in 0..100; "n/a" for -1, where there is nothing to find."""
    return "n/a" if share < 0 else f"{100 * share:.2f}"


def listed(names: Iterable[str]) -> str:
    """Return names as a list in a sentence, each once: "a, b and c"."""
    *others, last = dict.fromkeys(names)
    return f"{', '.join(others)} and {last}" if others else last


def number(value: float) -> str:
    """Return an error or a tolerance with two digits."""
    return "0" if value == 0 else f"{value:.1e}"
