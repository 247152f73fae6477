"""What several reports share: the verdict in words, runs, and numbers as text."""

from __future__ import annotations

from collections.abc import Callable
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
    part_of,
)
from verify.report import summary
from verify.report.html import to_html
from verify.report.json import to_json
from verify.report.junit import to_junit
from verify.report.markdown import to_markdown
from verify.results import AuditResult, DType, Mode, TensorFinding, UnusableValues, Verification

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


@pytest.mark.parametrize(
    ("modes", "dtypes", "ran"),
    [
        (("cumulative",), ("float32",), "cumulative, float32"),
        (("isolated",), ("float64",), "isolated, float64"),
        (("cumulative",), ("float64", "float32"), "cumulative, float64 and float32"),
        (("isolated", "cumulative"), ("float32",), "isolated and cumulative, float32"),
    ],
)
def test_a_part_of_the_runs_does_not_claim_the_same_outputs(
    modes: tuple[Mode, ...], dtypes: tuple[DType, ...], ran: str
) -> None:
    part = part_of(PASSING, modes, dtypes)
    assert summary.headline(part) == f"All layers agree in what was run: {ran} only."
    assert part.verdict == "PASS"


def test_an_evaluation_alone_is_no_pass() -> None:
    alone = SAMPLES["evaluated_only"]
    assert (alone.verdict, alone.passed) == ("EVALUATED", True)
    assert replace(alone, required="graph").verdict == "FAIL"  # its claim is weaker
    assert replace(alone, required="config").verdict == "EVALUATED"
    for part in ("published", "parity", "stages"):
        compared = {"published": None, "parity": None, "stages": ()} | {part: getattr(DETECTION, part)}
        detection = replace(DETECTION, **compared)
        assert replace(alone, detection=detection).verdict == "PASS"
    for name, report in SAMPLES.items():
        assert (report.verdict == "FAIL") == (not report.passed), name
        assert (report.verdict == "EVALUATED") == (name == "evaluated_only"), name


@pytest.mark.parametrize("render", [to_html, to_json, to_markdown, lambda report: to_junit(report).decode()])
def test_no_report_of_it_looks_green(render: Callable[[Verification], str]) -> None:
    """JUnit knows no third state but "skipped"."""
    alone = render(SAMPLES["evaluated_only"])
    assert "PASS" not in alone
    assert "verdict pass" not in alone
    assert "EVALUATED" in alone or alone.count("<testcase") == alone.count("<skipped") == 2
    compared = render(SAMPLES["evaluated"])
    assert "EVALUATED" not in compared
    assert "<skipped" not in compared


def test_what_there_is_not_is_no_number() -> None:
    rows = dict(summary.metric_rows(DETECTION))
    assert (rows["AR_medium"], rows["AR_large"]) == ("55.00", "n/a")
    assert "-1" not in rows.values()


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
