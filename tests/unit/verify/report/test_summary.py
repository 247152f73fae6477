"""What all reports say alike."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

import support.verification_samples as samples
from verify.report import summary
from verify.results import AuditResult, TensorFinding, Verification


def with_wrong_tensor(verification: Verification) -> Verification:
    return replace(verification, audit=AuditResult(2, (TensorFinding("fpn.x", "missing"),), {}))


@pytest.mark.parametrize(
    ("verification", "sentence"),
    [
        (samples.passing(), "These two networks compute the same."),
        (samples.unaudited(), "These two networks compute the same."),
        (samples.failing(), "These two networks do not compute the same."),
        (samples.empty(), "Nothing was compared."),
        (with_wrong_tensor(samples.passing()), "The converted file does not hold the checkpoint's weights."),
    ],
)
def test_headline(verification: Verification, sentence: str) -> None:
    assert summary.headline(verification) == sentence
    assert verification.passed == (sentence == "These two networks compute the same.")


def test_runs_hold_every_comparison_once() -> None:
    verification = samples.failing()
    runs = summary.runs(verification)
    assert [run.name for run in runs] == [
        "isolated, float64",
        "isolated, float32",
        "cumulative, float64",
        "cumulative, float32",
    ]
    assert sum(len(run.layers) for run in runs) == len(verification.layers)
    assert sum(run.failed for run in runs) == len(verification.failures) > 0


def test_a_run_that_did_not_take_place_is_not_listed() -> None:
    layers = tuple(layer for layer in samples.passing().layers if layer.dtype == "float32")
    assert {run.dtype for run in summary.runs(replace(samples.passing(), layers=layers))} == {"float32"}


def test_worst_is_relative_to_the_tolerance() -> None:
    small, large = samples.passing().layers[:2]
    strict = replace(small, measures=replace(small.measures, max_over_rms=1e-6), tolerance=1e-7)
    loose = replace(large, measures=replace(large.measures, max_over_rms=1e-3), tolerance=1.0)
    assert summary.Run("cumulative", "float32", (loose, strict)).worst is strict


@pytest.mark.parametrize(
    ("error", "tolerance", "expected"),
    [(2e-4, 1e-4, 2.0), (0.0, 0.0, 0.0), (1e-9, 0.0, float("inf")), (float("nan"), 1.0, float("inf"))],
)
def test_excess(error: float, tolerance: float, expected: float) -> None:
    layer = samples.passing().layers[0]
    found = replace(layer, measures=replace(layer.measures, max_over_rms=error), tolerance=tolerance)
    assert summary.excess(found) == expected


def test_comparisons_of_a_layer_are_gathered_in_execution_order() -> None:
    verification = samples.passing()
    gathered = summary.by_layer(reversed(verification.layers))
    assert all(len(comparisons) == 4 for comparisons in gathered)
    assert [next(iter(row.values())).order for row in gathered] == list(range(len(verification.layers) // 4))


def test_failed_layers_start_with_the_one_that_fails_alone() -> None:
    verification = samples.failing()
    first, *others = summary.failed_layers(verification)
    assert first[0].tf == samples.BROKEN
    assert summary.other_runs(first) == "also isolated, float64; cumulative, float32; cumulative, float64"
    assert all(layer.mode == "cumulative" for comparisons in others for layer in comparisons)
    assert sum(map(len, [first, *others])) == len(verification.failures)


def test_outputs_are_both_heads_at_every_level() -> None:
    dtypes, rows = summary.outputs(samples.passing())
    assert dtypes == ["float64", "float32"]
    names = [summary.output_name(next(iter(row.values()))) for row in rows]
    assert names == [f"{head} P{level}" for head in ("Class head", "Box head") for level in range(3, 8)]
    assert summary.output_cells(None) == ("", "")


def test_spans_cover_the_network() -> None:
    spans = summary.part_spans(samples.passing().layers)
    assert [name for name, _, _ in spans] == ["Backbone", "BiFPN", "Class head", "Box head"]
    assert all(left[2] + 1 == right[1] for left, right in itertools.pairwise(spans))


def test_only_unconfirmed_checksums_are_mentioned() -> None:
    audit = AuditResult(1, (), {"a.index": "equal", "a.data": "different"})
    assert summary.checksum_sentences(audit) == ["Checksum of a.data: different."]
    assert summary.checksum_sentences(None) == []


def test_printable_keeps_names_and_replaces_control_characters() -> None:
    assert summary.printable("fpn_cells/cell_0 é") == "fpn_cells/cell_0 é"
    assert summary.printable("a\x1b[31m\n\udc80") == "a�[31m��"


@pytest.mark.parametrize(("value", "text"), [(0.0, "0"), (3.14e-5, "3.1e-05"), (float("inf"), "inf")])
def test_number(value: float, text: str) -> None:
    assert summary.number(value) == text
