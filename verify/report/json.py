"""The report for machines: JSON as in docs/verification_report.schema.json.

JSON has no numbers for non-finite values: "Infinity", "-Infinity" and "NaN" represent them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from verify.results import Verification


def to_json(verification: Verification) -> str:
    """Return a verification as JSON that every parser accepts."""
    return json.dumps(_finite(verification.to_dict()), indent=1, allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
