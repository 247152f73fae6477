"""The report for machines: JSON as in docs/verification_report.schema.json, and back.

JSON has no number for what is not finite: "Infinity", "-Infinity" and "NaN" stand for it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from verify.detection_results import DetectionResult
from verify.errors import VerificationError
from verify.results import (
    SCHEMA_VERSION,
    AuditResult,
    Diagnosis,
    LayerResult,
    Measures,
    TensorFinding,
    Verification,
)


def to_json(verification: Verification) -> str:
    """Return a verification as JSON that every parser accepts."""
    return json.dumps(_finite(verification.to_dict()), indent=1, allow_nan=False) + "\n"


def read_report(path: Path) -> Verification:
    """Read a report back; verdicts are taken anew from the numbers.

    Raises:
        VerificationError: The file cannot be read, or is not a report of this version.
    """
    try:
        values = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise VerificationError(f"{path} cannot be read as a report: {error}") from error
    version = values.get("schema_version") if isinstance(values, dict) else None
    if version != SCHEMA_VERSION:
        raise VerificationError(f"{path}: schema_version is {version!r}; this version reads {SCHEMA_VERSION}")
    try:
        return _verification(values)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise VerificationError(f"{path} is no complete report ({error!r}); verify the model again") from error


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def _verification(values: Mapping[str, Any]) -> Verification:
    audit = values["audit"]
    return Verification(
        model=values["model"],
        reference=values["reference"],
        settings=values["settings"],
        versions=values["versions"],
        layers=tuple(_layer(layer) for layer in values["layers"]),
        audit=None if audit is None else _audit(audit),
        diagnoses=tuple(Diagnosis(**item | {"remaining": float(item["remaining"])}) for item in values["diagnoses"]),
        seconds=float(values["seconds"]),
        detection=None if (detection := values.get("detection")) is None else DetectionResult.from_dict(detection),
    )


def _layer(values: Mapping[str, Any]) -> LayerResult:
    derived = ("name", "passed")
    plain = {key: value for key, value in values.items() if key not in derived}
    read = {
        "shape": tuple(values["shape"]),
        "measures": _measures(values["measures"]),
        "tolerance": float(values["tolerance"]),
    }
    return LayerResult(**plain | read)


def _measures(values: Mapping[str, Any]) -> Measures:
    numbers = {key: float(value) for key, value in values.items() if key != "worst"}
    return Measures(worst=tuple(values["worst"]), **numbers)


def _audit(values: Mapping[str, Any]) -> AuditResult:
    findings = tuple(TensorFinding(**finding) for finding in values["findings"])
    return AuditResult(values["tensors"], findings, values["checksums"])
