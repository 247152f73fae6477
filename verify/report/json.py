"""The report for machines: JSON as in docs/verification_report.schema.json.

JSON has no numbers for non-finite values: "Infinity", "-Infinity" and "NaN" represent them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from verify.results.verification import Verification

SCHEMA_VERSION = 1
DERIVED = (
    "name",
    "passed",
    "verdict",
    "matched_share",
    "claim",
    "claim_suffices",
    "mistakes",
)  # computed from the other values, where a result has them


def to_json(verification: Verification) -> str:
    """Return a verification, verdicts included, as JSON that every parser accepts."""
    values = {"schema_version": SCHEMA_VERSION} | _plain(verification)
    return json.dumps(values, indent=1, allow_nan=False) + "\n"


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        names = [field.name for field in fields(value) if field.metadata.get("json", True)]
        names += [name for name in DERIVED if hasattr(value, name)]
        return {name: _plain(getattr(value, name)) for name in names}
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value
