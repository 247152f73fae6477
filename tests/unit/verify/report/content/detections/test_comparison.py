"""Two models side by side: how their numbers are called."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from support.detail_samples import COMPARISON, DETAILS
from support.verification_samples import SAMPLES
from verify.report.content.detections.comparison import other_model
from verify.results.verification import Verification

TWO = SAMPLES["two_models"]


def compared(own: str, other: str, **changes: Any) -> Verification:
    assert TWO.detection is not None
    comparison = replace(COMPARISON, model={"path": other}, **changes)
    model: Mapping[str, Any] = {**TWO.model, "path": own}
    return replace(TWO, model=model, detection=replace(TWO.detection, comparison=comparison))


@pytest.mark.parametrize(
    ("own", "other", "titles"),
    [
        ("runs/new.pth", "old.pth", ["new.pth", "old.pth"]),
        ("one/model.pth", "model.pth", ["model", "other model"]),
        ("a.pth", f"{'b' * 30}.pth", ["model", "other model"]),
        ("a.pth", "x\x1b[31m", ["a.pth", r"x\x1b[31m"]),
        ("difference", "a.pth", ["model", "other model"]),
    ],
)
def test_columns_have_the_names_of_the_files(own: str, other: str, titles: list[str]) -> None:
    numbers, *_ = other_model(compared(own, other))
    assert list(numbers.columns) == ["number", *titles, "difference"]
    assert f"The difference is {titles[1]} minus {titles[0]}." in numbers.lines[0]


def test_classes_with_equal_ap_are_counted() -> None:
    same = tuple(each for each in DETAILS.classes if each.curves)
    _, classes, _ = other_model(compared("a.pth", "b.pth", classes=(same[0], *COMPARISON.classes[1:])))
    assert [row[0] for row in classes.rows] == ["dog"]
    assert "left out: 1." in classes.lines[0]
    _, classes, _ = other_model(compared("a.pth", "b.pth"))  # negative control
    assert len(classes.rows) == 2
