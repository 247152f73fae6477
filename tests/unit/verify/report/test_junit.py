"""junit.xml: a suite per run, a case per layer, and everything worth knowing in a failure."""

from __future__ import annotations

from xml.etree import ElementTree as ET

import pytest

import support.verification_samples as samples
from verify.report.junit import to_junit
from verify.results import Verification

ALL = [samples.passing(), samples.failing(), samples.nasty(), samples.unaudited(), samples.empty()]


def suites_of(verification: Verification) -> dict[str, ET.Element]:
    return {suite.attrib["name"]: suite for suite in ET.fromstring(to_junit(verification))}


@pytest.mark.parametrize("verification", ALL)
def test_counts_are_those_of_the_cases(verification: Verification) -> None:
    root = ET.fromstring(to_junit(verification))
    assert root.tag == "testsuites"
    for element in (root, *root):
        assert int(element.attrib["tests"]) == len(list(element.iter("testcase")))
        assert int(element.attrib["failures"]) == len(list(element.iter("failure")))
    assert (root.attrib["failures"] == "0") == verification.passed


def test_a_suite_per_run_and_one_for_the_audit() -> None:
    suites = suites_of(samples.passing())
    runs = ["isolated.float64", "isolated.float32", "cumulative.float64", "cumulative.float32"]
    assert list(suites) == [*runs, "audit"]
    assert {suites[run].attrib["tests"] for run in runs} == {str(len(samples.passing().layers) // 4)}
    assert list(suites_of(samples.unaudited())) == runs


def test_a_failure_says_all_there_is_to_know() -> None:
    (failure,) = suites_of(samples.failing())["isolated.float64"].iter("failure")
    (layer,) = (x for x in samples.failing().failures if (x.mode, x.dtype) == ("isolated", "float64"))
    assert failure.attrib["type"] == "tolerance"
    assert failure.attrib["message"].startswith(f"{samples.BROKEN}: error 3.7e-01, allowed 1.0e-11; worst at")
    assert failure.text is not None
    for part in (samples.BROKEN, layer.torch, "0.37", "1e-11", str(layer.measures.worst), "bias not folded"):
        assert part in failure.text


def test_a_layer_of_a_level_is_a_case_of_its_own() -> None:
    names = [case.attrib["name"] for case in suites_of(samples.passing())["cumulative.float32"]]
    assert "box_net/box-predict (P7)" in names
    classes = {case.attrib["classname"] for case in suites_of(samples.passing())["cumulative.float32"]}
    assert "cumulative.float32.Box head" in classes


def test_audit_findings_are_failures() -> None:
    (case,) = suites_of(samples.failing())["audit"]
    assert case.attrib["name"].endswith("running_mean")
    assert "64 of 64" in case[0].attrib["message"]


def test_names_come_through_without_control_characters() -> None:
    (case, *_) = suites_of(samples.nasty())["cumulative.float32"]
    assert case.attrib["name"] == "<script>alert(1)</script>|`a``b`*&\"'�[31m��"


def test_the_parser_would_refuse_control_characters() -> None:
    with pytest.raises(ET.ParseError):
        ET.fromstring(to_junit(samples.nasty()).replace("�".encode(), b"\x1b"))
