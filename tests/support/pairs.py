"""The mark of tests that need aspect ratios as pairs of factors, which the config does not have yet."""

from __future__ import annotations

import pytest

NEEDS_PAIRS = pytest.mark.xfail(strict=True, reason="aspect_ratios as pairs are not supported yet")
