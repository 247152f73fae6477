"""Several processes train as one with all of the images, if the recipe asks for it; otherwise they do not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from support.shared_training import STEPS, train_together
from support.torchrun import run_processes

BOUND = 1e-6
TOGETHER = {"sync_bn": True, "normalizer": "global"}


TRAININGS = (TOGETHER, TOGETHER | {"sync_bn": False}, TOGETHER | {"normalizer": "replica"})


@pytest.fixture(scope="module")
def alone() -> dict[str, Any]:
    return run_processes(1, train_together, (0,), (TOGETHER,))[0][0]


@pytest.fixture(scope="module")
def found() -> list[list[dict[str, Any]]]:
    """For every process, what came of `TRAININGS`; the second one has one image more than the first."""
    return run_processes(2, train_together, (0, 2), TRAININGS)


def difference(found: dict[str, Any], expected: dict[str, Any]) -> float:
    """Return the largest difference of losses, weights, statistics or averages, relative to the largest of a tensor."""
    assert found.keys() == expected.keys()
    pairs = [(found[name], expected[name]) for name in expected]
    return float(max(np.abs(a - b).max() / max(np.abs(b).max(), 1e-3) for a, b in pairs))


def test_two_processes_train_as_one(alone: dict[str, Any], found: list[list[dict[str, Any]]]) -> None:
    assert len(alone["losses"]) == STEPS
    assert max(difference(each[0], alone) for each in found) < BOUND  # 1e-12 here


@pytest.mark.parametrize("training", [1, 2])
def test_each_for_itself_is_another_training(
    alone: dict[str, Any], found: list[list[dict[str, Any]]], training: int
) -> None:
    """Negative controls: statistics, or normalisers, of each process for itself."""
    assert difference(found[0][training], alone) > 1000 * BOUND


@pytest.mark.parametrize("training", range(len(TRAININGS)))
def test_all_processes_end_with_the_same_values(found: list[list[dict[str, Any]]], training: int) -> None:
    """To the bit: otherwise it would matter whose file is kept."""
    first, second = (each[training] for each in found)
    assert all((first[name] == second[name]).all() for name in first)
