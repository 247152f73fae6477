"""The numbers of every epoch: nothing lost, nothing doubled."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest

from effdet_torch.errors import EffdetError
from effdet_torch.train.run.results import COLUMNS, Results, read_results, to_csv, to_json
from effdet_torch.untrusted.text import printable
from support.train_results import NASTY, epoch_result


def results(*aps: float | None) -> Results:
    found = Results()
    for epoch, ap in enumerate(aps, start=1):
        found = found.adding(epoch_result(epoch, ap))
    return found


def rows(found: Results) -> list[dict[str, str]]:
    return list(csv.DictReader(StringIO(to_csv(found).decode())))


def test_a_row_for_every_epoch() -> None:
    first, second = rows(results(0.25, None))
    assert list(first) == list(COLUMNS)
    assert (first["epoch"], first["step"], first["loss"], first["images_per_second"]) == ("1", "10", "2.0", "5.0")
    assert (first["AP_ema"], first["AP_raw"], first["AR100_raw"]) == ("0.25", "0.125", "0.125")
    assert (second["loss"], second["AP_ema"], second["AP_raw"]) == ("1.0", "", "")  # not validated


def test_what_was_not_measured_is_empty() -> None:
    result = epoch_result(1, memory_bytes=None, gradient_norm=None, losses={"total": 1.0}, seconds=0.0)
    metrics = {"ema": {**result.metrics["ema"], "AP_small": -1.0}}  # there is nothing to find
    (row,) = rows(Results().adding(replace(result, metrics=metrics)))
    empty = ("memory_bytes", "gradient_norm", "class_loss", "images_per_second", "AP_small_ema", "AP_raw")
    assert {row[name] for name in empty} == {""}
    assert row["AP_large_ema"] == "0.25"  # negative control


def test_a_repeated_epoch_takes_the_place_of_the_first_and_of_later_ones() -> None:
    found = results(0.1, 0.2, 0.3).adding(epoch_result(2, 0.15))
    assert [(row.epoch, row.score) for row in found.epochs] == [(1, 0.1), (2, 0.15)]
    assert [row.epoch for row in found.adding(epoch_result(3)).epochs] == [1, 2, 3]


def again(found: Results, folder: Path) -> Results:
    path = folder / "results.json"
    path.write_bytes(to_json(found))
    return read_results(path)


def test_json_gives_everything_back(tmp_path: Path) -> None:
    found = results(0.1, None, 0.3).noting(NASTY).noting(NASTY)
    assert again(found, tmp_path) == found
    assert found.notes == (printable(NASTY),)
    assert json.loads(to_json(found))["epochs"][2]["per_class"]["raw"] == {"cat": 0.15, printable(NASTY): -1.0}


def test_numbers_that_json_lacks_are_null(tmp_path: Path) -> None:
    found = Results().adding(epoch_result(1, gradient_norm=float("nan"), losses={"total": float("inf")}))
    row = json.loads(to_json(found), parse_constant=pytest.fail)["epochs"][0]
    assert (row["gradient_norm"], row["losses"]) == (None, {"total": None})
    assert again(found, tmp_path).epochs[0].losses == {"total": None}


@pytest.mark.parametrize("content", [b"", b"[]", b'{"epochs": [{"epoch": "1"}]}', b'{"epochs": [{"epoch": 1}]}'])
def test_a_damaged_file_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "results.json").write_bytes(content)
    with pytest.raises(EffdetError, match=r"/results\.json cannot be read: .*; restore it, or start a new run"):
        read_results(tmp_path / "results.json")


def test_only_the_best_and_the_last_validated_epoch_keep_their_classes() -> None:
    found = results(0.1, 0.4, 0.2, None)
    assert [bool(row.per_class) for row in found.epochs] == [False, True, True, False]
    assert found.best is not None
    assert found.last_validated is not None
    assert (found.best.epoch, found.last_validated.epoch) == (2, 3)


def test_the_better_copy_counts_and_the_first_of_equal_epochs_is_the_best() -> None:
    late = epoch_result(2, metrics={"ema": {"AP": 0.0}, "raw": {"AP": 0.3}})  # averages need many steps
    found = results(0.25).adding(late).adding(epoch_result(3, 0.3))
    assert found.best is not None
    assert (found.best.epoch, found.best.score) == (2, 0.3)
    assert (results(None).best, results(None).last_validated, Results().best) == (None, None, None)
