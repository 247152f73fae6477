"""What is said about an evaluation."""

from __future__ import annotations

from dataclasses import replace

import pytest

from support.verification_samples import DETECTION, WRONG_DETECTION
from verify.report.content.detections.checks import checks, metric_rows


def test_what_there_is_not_is_no_number() -> None:
    rows = dict(metric_rows(DETECTION))
    assert (rows["AR_medium"], rows["AR_large"]) == ("55.00", "n/a")
    assert "-1" not in rows.values()


@pytest.mark.parametrize("part", ["published", "parity", "stages"])
def test_every_check_of_the_detections_can_fail(part: str) -> None:
    wrong = replace(DETECTION, **{part: getattr(WRONG_DETECTION, part)})
    assert sum(not check.passed for check in checks(wrong)) == 1
    assert not wrong.passed
