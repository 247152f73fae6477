"""report.json: valid for every parser, and as its schema says."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import jsonschema
import pytest

from support.verification_samples import DETECTION, FAILING, HOSTILE, SAMPLES
from verify.report.json import to_json
from verify.results.verification import Verification

SCHEMA = json.loads((Path(__file__).parents[4] / "docs" / "verification_report.schema.json").read_text("utf-8"))
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)


def refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def report_of(verification: Verification) -> Any:
    return json.loads(to_json(verification), parse_constant=refuse)


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("verification", SAMPLES.values(), ids=SAMPLES)
def test_matches_the_schema(verification: Verification) -> None:
    VALIDATOR.validate(report_of(verification))


@pytest.mark.parametrize(
    "damage",
    [
        lambda report: report.pop("seconds"),
        lambda report: report["layers"][0].pop("tolerance"),
        lambda report: report["layers"][0].update(mode="alone"),
        lambda report: report["layers"][0]["measures"].update(max_abs="1e-7"),
        lambda report: report["audit"].update(more=1),
        lambda report: report["detection"]["metrics"].update(mAP=0.5),
    ],
)
def test_the_schema_refuses_something_else(damage: Any) -> None:
    report = report_of(replace(FAILING, detection=DETECTION))
    assert VALIDATOR.is_valid(report)
    damage(report)
    assert not VALIDATOR.is_valid(report)


def test_non_finite_values_have_a_name() -> None:
    report = report_of(HOSTILE)
    assert [layer["measures"]["max_over_rms"] for layer in report["layers"][:2]] == ["NaN", "Infinity"]
    assert report["layers"][1]["measures"]["found"] == "-Infinity"
    assert report["model"]["nan"] == "NaN"
