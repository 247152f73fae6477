"""What is said about an evaluation."""

from __future__ import annotations

from dataclasses import replace

import pytest

from support.verification_samples import DETECTION, EVALUATED, WRONG_DETECTION
from verify.report.content.detections.checks import checks, evaluation, metric_rows
from verify.results.detections import DetectionParity


def test_what_there_is_not_is_no_number() -> None:
    rows = dict(metric_rows(DETECTION))
    assert (rows["AR_medium"], rows["AR_large"]) == ("55.00", "n/a")
    assert "-1" not in rows.values()


@pytest.mark.parametrize("part", ["published", "parity", "stages"])
def test_every_check_of_the_detections_can_fail(part: str) -> None:
    wrong = replace(DETECTION, **{part: getattr(WRONG_DETECTION, part)})
    assert sum(not check.passed for check in checks(wrong)) == 1
    assert not wrong.passed


def test_the_share_follows_from_the_numbers_beside_it() -> None:
    wrong = replace(WRONG_DETECTION, parity=DetectionParity("a.json", 43, 15, 17, 0.1, 0.001, 0.002024))
    (found,) = (check for check in checks(wrong) if check.name == "reference results")
    assert found.sentence.startswith("17 of 58 detections (43 in a.json, 15 more) matched: 29.31 %")
    assert "AP difference +0.2024 points, allowed 0.05" in found.sentence  # of 0..100, as all other numbers


@pytest.mark.parametrize(("images", "is_said"), [(99, True), (100, False)])
def test_few_images_are_called_few(images: int, is_said: bool) -> None:
    lines = next(evaluation(replace(EVALUATED, detection=replace(DETECTION, images=images)))).lines
    assert ("mean little" in " ".join(lines)) is is_said


def test_many_detections_are_explained() -> None:
    for profile, is_said in (({"max_detections": 100}, True), ({}, False)):
        lines = next(evaluation(replace(EVALUATED, settings={"profile": profile}))).lines
        assert ("up to 100 detections" in " ".join(lines)) is is_said
