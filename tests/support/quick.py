"""Which parameters of a test run every time, and which with `make slow` alone."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import pytest


def mostly_slow(names: Iterable[Any], quick: Collection[Any]) -> list[Any]:
    """Return names as parameters of a test, of which only some run every time.

    Raises:
        AssertionError: One that should run every time is not among them.
    """
    names = list(names)
    assert set(quick) <= set(names)
    return [pytest.param(name, marks=() if name in quick else pytest.mark.slow) for name in names]
