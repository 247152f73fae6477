"""report.json: valid for every parser, as its schema says, and readable again."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import jsonschema
import pytest

import support.verification_samples as samples
from verify.errors import VerificationError
from verify.report.json import read_report, to_json
from verify.results import Verification

SCHEMA = Path(__file__).parents[4] / "docs" / "verification_report.schema.json"


def refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")


def strict(text: str) -> Any:
    return json.loads(text, parse_constant=refuse)


@pytest.fixture(scope="module")
def validator() -> jsonschema.Draft202012Validator:
    schema = strict(SCHEMA.read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def short(verification: Verification) -> Verification:
    """Keep the failures and a few others: the schema library takes its time."""
    return replace(verification, layers=(*verification.layers[:20], *verification.failures[:20]))


@pytest.mark.parametrize(
    "verification",
    [short(samples.passing()), short(samples.failing()), samples.nasty(), short(samples.unaudited()), samples.empty()],
)
def test_matches_the_schema(verification: Verification, validator: jsonschema.Draft202012Validator) -> None:
    validator.validate(strict(to_json(verification)))


@pytest.mark.parametrize(
    "damage",
    [
        lambda report: report.pop("seconds"),
        lambda report: report["layers"][0].pop("tolerance"),
        lambda report: report["layers"][0].update(mode="alone"),
        lambda report: report["layers"][0]["measures"].update(max_abs="1e-7"),
        lambda report: report["audit"].update(more=1),
    ],
)
def test_the_schema_refuses_something_else(damage: Any, validator: jsonschema.Draft202012Validator) -> None:
    report = strict(to_json(short(samples.failing())))
    damage(report)
    assert not validator.is_valid(report)


def test_what_is_not_finite_has_a_name() -> None:
    report = strict(to_json(samples.nasty()))
    assert [layer["measures"]["max_over_rms"] for layer in report["layers"][:2]] == ["NaN", "Infinity"]
    assert report["layers"][1]["measures"]["found"] == "-Infinity"
    assert report["model"]["nan"] == "NaN"


def test_the_verdicts_are_in_the_report() -> None:
    verification = samples.failing()
    report = strict(to_json(verification))
    assert not report["passed"]
    assert not report["audit"]["passed"]
    assert sum(not layer["passed"] for layer in report["layers"]) == len(verification.failures)


@pytest.mark.parametrize("verification", [samples.passing(), samples.unaudited(), samples.empty()])
def test_reads_back_what_was_written(verification: Verification, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text(to_json(verification))
    assert read_report(path) == verification


def test_reads_back_failures(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text(to_json(samples.failing()))
    found = read_report(path)
    assert not found.passed
    assert (found.audit, found.diagnoses) == (samples.failing().audit, samples.failing().diagnoses)
    assert [layer.name for layer in found.failures] == [layer.name for layer in samples.failing().failures]


def test_reads_back_values_that_are_not_finite(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text(to_json(samples.nasty()))
    assert to_json(read_report(path)) == to_json(samples.nasty())
    assert len(read_report(path).failures) == 2


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("not JSON", "cannot be read"),
        ("[]", "schema_version is None"),
        ('{"schema_version": 99}', "schema_version is 99"),
        ('{"schema_version": 1}', "no complete report"),
        (to_json(samples.nasty()).replace('"order"', '"position"'), "no complete report"),
    ],
)
def test_refuses_what_is_no_report(text: str, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text(text)
    with pytest.raises(VerificationError, match=reason):
        read_report(path)


def test_refuses_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(VerificationError, match="cannot be read"):
        read_report(tmp_path / "report.json")
