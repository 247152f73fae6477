"""An evaluation on COCO in all reports."""

from __future__ import annotations

import json
from dataclasses import replace
from io import StringIO
from pathlib import Path
from xml.etree import ElementTree as ET

import jsonschema
import pytest
from rich.console import Console

from effdet_torch.metrics.coco import METRICS
from support.verification_samples import NASTY, passing
from verify.detection_results import DetectionParity, DetectionResult, PublishedAP, StageResult
from verify.report.write import read_report, render_terminal, to_html, to_json, to_junit, to_markdown
from verify.results import Verification

SCHEMA = json.loads((Path(__file__).parents[4] / "docs" / "verification_report.schema.json").read_text("utf-8"))
METRIC_VALUES = {name: 0.0125 * (n + 1) for n, name in enumerate(METRICS)} | {"AR_large": -1.0}
GOOD = DetectionResult(
    split="val2017",
    profile="official-eval",
    images=5000,
    detections=123456,
    metrics=METRIC_VALUES,
    complete=True,
    published=PublishedAP("efficientdet-d0", 34.3, 34.35),
    parity=DetectionParity("official.json", 1000, 1, 999, 0.75, 0.002, 1e-5, 37777),
    stages=(
        StageResult("pixels", "largest difference", 1e-6, 1e-4, 37777),
        StageResult("metric", "AP", 0.0, 5e-4, None),
    ),
)
BAD = replace(
    GOOD,
    published=PublishedAP("efficientdet-d0", 34.3, 34.41),
    parity=DetectionParity(NASTY, 1000, 0, 900, float("inf"), 0.002, None, 37777),
    stages=(StageResult("pixels", "largest difference", float("nan"), 1e-4, 37777),),
)


def evaluated(detection: DetectionResult) -> Verification:
    return replace(passing(), layers=(), audit=None, reference={}, detection=detection)


def printed(verification: Verification) -> str:
    stream = StringIO()
    render_terminal(verification, Console(file=stream, width=300))
    return stream.getvalue()


@pytest.mark.parametrize("detection", [GOOD, BAD, replace(GOOD, metrics={}, published=None, parity=None, stages=())])
def test_json_fits_the_schema_and_comes_back(tmp_path: Path, detection: DetectionResult) -> None:
    path = tmp_path / "report.json"
    path.write_text(to_json(evaluated(detection)))
    jsonschema.validate(json.loads(path.read_text()), SCHEMA)
    again = read_report(path).detection
    assert again is not None
    assert again.passed == detection.passed
    assert repr(again) == repr(detection)  # NaN is not equal to itself


def test_the_schema_refuses_unknown_metrics() -> None:
    values = json.loads(to_json(evaluated(replace(GOOD, metrics={"mAP": 0.5}))))
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(values, SCHEMA)


@pytest.mark.parametrize(("detection", "passed"), [(GOOD, True), (BAD, False)])
def test_the_verdict(detection: DetectionResult, passed: bool) -> None:
    assert evaluated(detection).passed is passed
    assert replace(passing(), detection=detection).passed is passed


@pytest.mark.parametrize("part", ["published", "parity", "stages"])
def test_every_part_can_fail(part: str) -> None:
    bad = replace(GOOD, **{part: getattr(BAD, part)})
    assert not bad.passed
    assert not evaluated(bad).passed


def test_the_terminal_says_it_all() -> None:
    text = printed(evaluated(GOOD))
    assert text.startswith("PASS  The detections are as expected.")
    assert all(name in text for name in METRICS)
    assert "123456 detections in 5000 images, all of val2017; profile official-eval." in text
    assert "AP 34.35, published for efficientdet-d0: 34.3" in text
    assert "999 of 1000 detections of official.json matched, 1 surplus: 99.80 %" in text
    assert "FAIL  The detections are not as expected: published AP, expected detections, stage pixels." in printed(
        evaluated(BAD)
    )


def test_an_evaluation_alone_claims_nothing() -> None:
    alone = evaluated(replace(GOOD, published=None, parity=None, stages=(), complete=False))
    text = printed(alone)
    assert text.startswith("PASS  The model was evaluated; nothing was compared.")
    assert "a part of val2017" in text
    assert "Audit" not in text


def test_junit_has_a_case_per_check() -> None:
    for detection, failures in ((GOOD, 0), (BAD, 3)):
        root = ET.fromstring(to_junit(evaluated(detection)))
        (suite,) = root.findall("testsuite")
        assert (suite.get("name"), suite.get("failures")) == ("detections", str(failures))
        assert len(suite.findall("testcase/failure")) == failures
        assert suite.get("tests") == str(len(suite.findall("testcase")))
        assert {x.get("name"): x.get("value") for x in suite.iter("property")}["AP75"] == "3.75"


def test_markdown_and_html_have_the_numbers_and_escape_names() -> None:
    for text in (to_markdown(evaluated(BAD)), to_html(evaluated(BAD))):
        assert "<script>alert(1)" not in text.replace("\\<", "")
        assert all(name in text for name in METRICS)
        assert "13.75" in text
        assert "-1" in text
        assert "FAIL" in text


def test_layers_and_detections_stand_together() -> None:
    both = replace(passing(), detection=GOOD)
    for text in (printed(both), to_markdown(both), to_html(both)):
        assert "Outputs per level" in text
        assert "5000 images" in text
    assert [x.get("name") for x in ET.fromstring(to_junit(both))][-2:] == ["detections", "audit"]
