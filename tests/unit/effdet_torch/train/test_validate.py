"""Validation in training: over several processes the same as in one, and without a trace in the model."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from support.coco_samples import write_coco
from support.shared_validation import validated
from support.torchrun import run_processes

IDS = (7, 3, 12, 5)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_coco(tmp_path_factory.mktemp("coco"), IDS)


@pytest.fixture(scope="module")
def alone(root: Path) -> dict[str, Any]:
    found = run_processes(1, validated, root, (0,), 1)[0]
    assert found is not None
    return found


def test_three_processes_count_every_image_once(root: Path, alone: dict[str, Any]) -> None:
    """Four images in three processes; the weights of the others than rank 0 do not count."""
    first, *others = run_processes(3, validated, root, (0, 1, 2), 2)
    assert others == [None, None]
    assert first == alone
    assert Counter(row["image_id"] for row in first["results"]).keys() == set(IDS)
    per_image = Counter(row["image_id"] for row in alone["results"])
    assert Counter(row["image_id"] for row in first["results"]) == per_image


def test_other_weights_give_other_results(root: Path, alone: dict[str, Any]) -> None:
    """Negative control of the comparison."""
    other = run_processes(1, validated, root, (1,), 1)[0]
    assert other is not None
    assert other["results"] != alone["results"]


def test_metrics_come_for_every_class(alone: dict[str, Any]) -> None:
    assert {name: objects for name, (objects, _) in alone["classes"].items()} == {"a": 2, "b": 2}
    means = [metrics["AR100"] for _, metrics in alone["classes"].values()]
    assert alone["metrics"]["AR100"] == pytest.approx(sum(means) / 2)
