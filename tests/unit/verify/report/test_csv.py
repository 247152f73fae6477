"""Tables for a spreadsheet."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import pytest

from effdet_torch.errors import OutputError
from effdet_torch.metrics.coco import METRICS
from support.detail_samples import COMPARISON, DETAILS, NASTY_DETAILS, class_of
from verify.report.csv import write_csv


def read(path: Path) -> list[list[str]]:
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.reader(stream))


def test_four_tables(tmp_path: Path) -> None:
    paths = write_csv(tmp_path / "val.csv", DETAILS)
    names = ["val.csv", "val_images.csv", "val_confusion.csv", "val_curves.csv"]
    assert [path.name for path in paths] == names
    assert {path.name for path in tmp_path.iterdir()} == set(names)
    header, *rows = read(paths[0])
    cat, hen, dog = (dict(zip(header, row, strict=True)) for row in rows)
    assert (cat["class"], cat["objects"], cat["AP"], cat["AP_large"]) == ("cat", "6", "0.5", "")
    assert [cat[name] for name in ("right", "wrong_class", "missed", "false")] == ["3", "2", "1", "0"]
    assert dog["false"] == "5"
    assert {hen[name] for name in (*METRICS, "best_F1", "score_of_best_F1")} == {""}
    assert not any(name.startswith("other") for name in header)
    assert read(paths[1])[1:] == [["7", "7.jpg", "1", "2", "1", "5", "8"], ["9", "9.jpg", "4", "0", "0", "0", "0"]]
    assert read(paths[2])[-1] == ["no object", "0", "0", "5", "0"]
    curves = read(paths[3])
    assert len(curves) == 1 + 2 * 2 * 101  # the class without objects has none
    assert curves[102 + 101] == ["1", "cat", "0.75", "1.0", "0.5", "0.25"] or curves[1 + 101][2] == "0.75"


def test_another_model_has_columns_of_its_own(tmp_path: Path) -> None:
    classes, images, *_ = map(read, write_csv(tmp_path / "val.csv", DETAILS, COMPARISON))
    cat, hen, _ = (dict(zip(classes[0], row, strict=True)) for row in classes[1:])
    assert (cat["AP"], cat["other_AP"], hen["other_AP"]) == ("0.5", "0.75", "")
    assert [row[-2:] for row in images] == [["other_mistakes", "different"], ["5", "3"], ["0", "0"]]


@pytest.mark.parametrize("name", ["=1+2", "+1", "-1", "@a"])
def test_a_name_is_not_a_formula(tmp_path: Path, name: str) -> None:
    found = replace(DETAILS, classes=(class_of(1, name, 6, 0.5), class_of(2, f"a{name}", 6, 0.5)))
    rows = read(write_csv(tmp_path / "val.csv", found)[0])
    assert [row[1] for row in rows[1:]] == [f"'{name}", f"a{name}"]


def test_a_name_makes_no_line_of_its_own(tmp_path: Path) -> None:
    for path in write_csv(tmp_path / "val.csv", NASTY_DETAILS):
        text = path.read_text("utf-8")
        assert "\x1b" not in text
        assert len(text.splitlines()) == len(read(path))


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot be written"):
        write_csv(tmp_path / "missing" / "val.csv", DETAILS)
    assert list(tmp_path.iterdir()) == []
