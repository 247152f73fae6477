"""What several reports share: the verdict in words, runs, and numbers as text."""

from __future__ import annotations

from dataclasses import replace

import pytest

from support.verification_samples import (
    BROKEN,
    DETECTION,
    EVALUATED,
    FAILING,
    PASSING,
    SAMPLES,
    WRONG_DETECTION,
)
from verify.report import summary
from verify.results import AuditResult, TensorFinding, UnusableValues, Verification

WRONG_TENSOR = AuditResult(2, (TensorFinding("fpn.x", "missing"),), {})
UNUSABLE = AuditResult(2, (UnusableValues("fpn.x", "NaN"), UnusableValues("fpn.y", "NaN"), *WRONG_TENSOR.findings), {})
UNUSABLE_SENTENCE = "The converted file holds values that no network can use: fpn.x: NaN (and 1 more)."


@pytest.mark.parametrize(
    ("verification", "sentence", "passed"),
    [
        (PASSING, "The two networks compute the same outputs.", True),
        (replace(PASSING, audit=None, detection=DETECTION), "The two networks compute the same outputs.", True),
        (FAILING, "The two networks do not compute the same outputs.", False),
        (replace(FAILING, detection=WRONG_DETECTION), "The two networks do not compute the same outputs.", False),
        (replace(FAILING, audit=UNUSABLE), UNUSABLE_SENTENCE, False),
        (replace(PASSING, audit=UNUSABLE), UNUSABLE_SENTENCE, False),
        (replace(PASSING, audit=WRONG_TENSOR), "The converted file does not hold the checkpoint's weights.", False),
        (replace(PASSING, detection=WRONG_DETECTION), "The detections differ from what was expected", False),
        (replace(PASSING, layers=()), "Nothing was compared.", False),
        (EVALUATED, "The detections are as expected.", True),
        (SAMPLES["evaluated_only"], "The model was evaluated; nothing was compared.", True),
        (SAMPLES["evaluated_wrong"], "The detections differ from what was expected: published AP", False),
    ],
)
def test_headline_and_verdict(verification: Verification, sentence: str, passed: bool) -> None:
    assert summary.headline(verification).startswith(sentence)
    assert verification.passed is passed


@pytest.mark.parametrize("part", ["published", "parity", "stages"])
def test_every_check_of_the_detections_can_fail(part: str) -> None:
    wrong = replace(DETECTION, **{part: getattr(WRONG_DETECTION, part)})
    assert sum(not check.passed for check in summary.checks(wrong)) == 1
    assert not wrong.passed


def test_runs_hold_every_comparison_once() -> None:
    runs = summary.runs(FAILING)
    assert [run.name for run in runs] == [f"{mode}, {dtype}" for mode, dtype in summary.RUN_ORDER]
    assert sum(len(run.layers) for run in runs) == len(FAILING.layers)
    assert sum(run.failed for run in runs) == len(FAILING.failures) == 12


def test_failures_start_with_the_layer_that_fails_alone() -> None:
    first, *others = summary.by_layer(FAILING.failures)
    assert [layer.tf for layer in first] == [BROKEN] * 4
    assert {layer.mode for comparisons in others for layer in comparisons} == {"cumulative"}


def test_worst_is_relative_to_the_tolerance() -> None:
    small, large = PASSING.layers[:2]
    strict = replace(small, measures=replace(small.measures, max_over_rms=1e-6), tolerance=1e-7)
    loose = replace(large, measures=replace(large.measures, max_over_rms=1e-3), tolerance=1.0)
    assert summary.Run("cumulative", "float32", (loose, strict)).worst is strict


@pytest.mark.parametrize(
    ("error", "tolerance", "expected"),
    [(2e-4, 1e-4, 2.0), (0.0, 0.0, 0.0), (1e-9, 0.0, float("inf")), (float("nan"), 1.0, float("inf"))],
)
def test_excess(error: float, tolerance: float, expected: float) -> None:
    layer = PASSING.layers[0]
    assert (
        summary.excess(replace(layer, measures=replace(layer.measures, max_over_rms=error), tolerance=tolerance))
        == expected
    )


def test_printable_keeps_names_and_replaces_what_controls_a_terminal() -> None:
    assert summary.printable("fpn_cells/cell_0 é") == "fpn_cells/cell_0 é"
    assert summary.printable("a\x1b[31m\n\udc80\u202e") == "a�[31m���"
