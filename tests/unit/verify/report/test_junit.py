"""junit.xml: counts that add up, and names that no parser refuses."""

from __future__ import annotations

from xml.etree import ElementTree as ET

import pytest

from effdet_torch.untrusted.text import printable
from support.verification_samples import HOSTILE, NASTY, SAMPLES
from verify.report.junit import to_junit
from verify.results.verification import Verification


@pytest.mark.parametrize("verification", SAMPLES.values(), ids=SAMPLES)
def test_counts_are_those_of_the_cases(verification: Verification) -> None:
    root = ET.fromstring(to_junit(verification))
    for element in (root, *root):
        assert int(element.attrib["tests"]) == len(list(element.iter("testcase")))
        assert int(element.attrib["failures"]) == len(list(element.iter("failure")))
    assert (root.attrib["failures"] == "0") == verification.passed
    assert all(int(suite.attrib["skipped"]) == len(list(suite.iter("skipped"))) for suite in root)


def test_names_come_through_without_control_characters() -> None:
    document = to_junit(HOSTILE)
    (case, *_) = next(iter(ET.fromstring(document)))
    assert case.attrib["name"] == printable(NASTY)
    with pytest.raises(ET.ParseError):  # the parser would refuse them
        ET.fromstring(document.replace(rb"\x1b", b"\x1b"))
