"""settings.yaml: what a resumed run may change, and what it must not."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from effdet_torch.errors import EffdetError, UsageError
from effdet_torch.train.recipe import Recipe
from effdet_torch.train.request import TrainRequest
from effdet_torch.train.run.settings import (
    FREE,
    MAY_CHANGE,
    SETTINGS,
    changed,
    read_settings,
    require_same,
    resumed,
    settings_of,
    to_yaml,
)
from support.train_results import NASTY, request


@pytest.fixture
def run(tmp_path: Path) -> Path:
    facts = {
        "classes": {1: "cat", 2: "yes", 3: NASTY},
        "command": "effdet-train data",
        "checksums": {"train": "12e4", "val": "b"},
    }
    started = request(tmp_path, source="d0.pth", image_size=(384, 640), batch=4, batch_auto=True)
    (tmp_path / SETTINGS).write_bytes(to_yaml(settings_of(started, facts)))
    return tmp_path


def test_the_file_gives_the_request_back(run: Path) -> None:
    expected = request(run, source="d0.pth", image_size=(384, 640), batch=4, resume=True)
    assert resumed(run, {}) == expected
    assert read_settings(run)["classes"] == {1: "cat", 2: "yes", 3: NASTY}
    assert "PyTorch" in read_settings(run)["versions"]


def test_what_may_change_does(run: Path) -> None:
    given = {"epochs": 400, "workers": 0, "device": "cpu", "patience": 3, "val_every": 2, "data": run / "moved"}
    found = resumed(run, given)
    assert (found.recipe.epochs, found.recipe.patience, found.recipe.val_every) == (400, 3, 2)
    assert (found.workers, found.device, found.data, found.batch_auto) == (0, "cpu", run / "moved", False)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"lr": 0.1}, r"lr 0\.1 \(the run has none\)"),
        ({"batch": 8}, r"batch 8 \(the run has 4\)"),
        ({"ema": None}, r"ema none \(the run has 0\.9998\)"),
        ({"augment": ("flip",)}, r"augment flip \(the run has flip,scale\)"),
        ({"recipe_name": "default"}, r"recipe_name default \(the run has official\)"),
        ({"source": "d1.pth"}, r"source d1\.pth \(the run has d0\.pth\)"),
        ({"image_size": (640, 384)}, r"image_size 640,384 \(the run has 384,640\)"),
    ],
)
def test_what_must_not_change_is_refused(run: Path, given: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=rf"cannot be resumed with other settings: {words}; leave them out"):
        resumed(run, given)


def test_the_same_values_are_no_change(run: Path) -> None:
    """Negative control of the refusals."""
    given = {"batch": 4, "ema": 0.9998, "augment": ("flip", "scale"), "source": "d0.pth", "image_size": (384, 640)}
    assert resumed(run, given) == resumed(run, {})


def test_sections_are_compared_by_their_entries(run: Path) -> None:
    before = read_settings(run)
    assert changed(before, before | {"versions": {"PyTorch": "0"}, "command": "other", "new": 1}) == []
    assert changed(before, {"checksums": {"train": "12e4", "val": "c"}}) == ["val c (the run has b)"]
    with pytest.raises(UsageError, match=r"train a \(the run has 12e4\)"):
        require_same(before, {"checksums": {"train": "a"}}, run)


def test_every_setting_is_in_the_file_and_every_row_is_a_setting(run: Path) -> None:
    settings = read_settings(run)
    assert set(settings["recipe"]) == {field.name for field in fields(Recipe)}
    of_request = {field.name for field in fields(TrainRequest)}
    assert of_request - set(FREE) <= set(settings)
    assert set(MAY_CHANGE) <= of_request | set(settings["recipe"])


def test_a_folder_that_is_not_a_run(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"is not a run folder: it has no settings\.yaml; pass the --out of the run"):
        resumed(tmp_path, {})


@pytest.mark.parametrize(
    "content", ["a: [", "3", "recipe: 1", "recipe: {}", "data: x\nrecipe: {epochs: many}", "data: x\nrecipe: {lr: -1}"]
)
def test_a_damaged_file_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / SETTINGS).write_text(content)
    with pytest.raises(EffdetError, match=r"settings\.yaml (is damaged|cannot be read).*; restore it, or start"):
        resumed(tmp_path, {})
