"""Comparisons gathered by run and by layer."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest

from support.verification_samples import BROKEN, FAILING, MODES, PASSING
from verify.report.content import layers


def test_runs_hold_every_comparison_once() -> None:
    runs = layers.runs(FAILING)
    assert [run.name for run in runs] == [f"{mode}, {dtype}" for mode, dtype in product(MODES, ("float64", "float32"))]
    assert sum(len(run.layers) for run in runs) == len(FAILING.layers)
    assert sum(run.failed for run in runs) == len(FAILING.failures) == 12


def test_failures_start_with_the_layer_that_fails_alone() -> None:
    first, *others = layers.by_layer(FAILING.failures)
    assert [layer.tf for layer in first] == [BROKEN] * 4
    assert {layer.mode for comparisons in others for layer in comparisons} == {"cumulative"}


def test_worst_is_relative_to_the_tolerance() -> None:
    small, large = PASSING.layers[:2]
    strict = replace(small, measures=replace(small.measures, max_over_rms=1e-6), tolerance=1e-7)
    loose = replace(large, measures=replace(large.measures, max_over_rms=1e-3), tolerance=1.0)
    assert layers.Run("cumulative", "float32", (loose, strict)).worst is strict


@pytest.mark.parametrize(
    ("error", "tolerance", "expected"),
    [(2e-4, 1e-4, 2.0), (0.0, 0.0, 0.0), (1e-9, 0.0, float("inf")), (float("nan"), 1.0, float("inf"))],
)
def test_excess(error: float, tolerance: float, expected: float) -> None:
    layer = PASSING.layers[0]
    assert (
        layers.excess(replace(layer, measures=replace(layer.measures, max_over_rms=error), tolerance=tolerance))
        == expected
    )
