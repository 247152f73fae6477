"""`effdet-verify` with what people look at: classes, confusions, worst images, another model, tables."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import cli
from effdet_torch.inference.predict import Predictor
from support.coco_samples import write_coco, write_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("details")
    write_coco(root / "coco")
    write_coco(root / "coco", split="testdev")
    write_model(root / "model.pth")
    write_model(root / "other.pth", seed=1)
    return root


def verify(folder: Path, *more: object) -> Result:
    words = [folder / "model.pth", "--coco", folder / "coco", "--workers", 0, *more]
    return CliRunner().invoke(cli.verify, list(map(str, words)))


def test_everything_is_in_every_report(folder: Path, tmp_path: Path) -> None:
    reports, table = tmp_path / "report", tmp_path / "classes.csv"
    done = verify(folder, "--compare", folder / "other.pth", "--report-dir", reports, "--save-csv", table)
    assert done.exit_code == 0, done.output
    assert done.output.startswith("wrote ")
    assert "EVALUATED - rests on " in done.output
    assert "PASS" not in done.output
    report = json.loads((reports / "report.json").read_text())
    details, other = report["detection"]["details"], report["detection"]["comparison"]
    assert other["model"]["path"] == "other.pth"
    assert other["model"]["sha256"] != report["model"]["sha256"]
    assert other["metrics"] != report["detection"]["metrics"]
    assert len(details["images"]) == len(other["images"]) == 4
    assert len(details["worst"]) == len([x for x in details["images"] if x["mistakes"]]) > 0
    page, summary = ((reports / name).read_text() for name in ("report.html", "summary.md"))
    assert page.count("data:image/jpeg;base64,") == 2 * len(details["worst"]) + 3 * len(other["shown"])
    for title in ("Classes", "Confusions", "Worst images", "Compared with another model", "Images that differ most"):
        assert f"### {title}\n" in summary
        assert f">{title}</h2>" in page
        assert f"\n{title}\n" in done.output
    assert {path.name for path in tmp_path.iterdir()} == {
        "report",
        *("classes.csv", "classes_images.csv", "classes_confusion.csv", "classes_curves.csv"),
    }
    with table.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [float(row["AP"]) for row in rows if row["AP"]] == [
        each["metrics"]["AP"] for each in details["classes"] if each["objects"]
    ]


def test_score_and_number_of_images_are_the_users(folder: Path, tmp_path: Path) -> None:
    found = []
    for n, words in enumerate((("--score", "0"), ("--score", "1"), ("--shown", "1"), ("--shown", "0"))):
        assert verify(folder, "--report-dir", tmp_path / str(n), *words).exit_code == 0
        found.append(json.loads((tmp_path / str(n) / "report.json").read_text())["detection"])
    all_, none, one, _ = (x["details"] for x in found)
    assert (all_["min_score"], none["min_score"]) == (0, 1)
    assert sum(x["false"] for x in all_["images"]) > sum(x["false"] for x in none["images"]) == 0
    assert [len(x["details"]["worst"]) for x in found[2:]] == [1, 0]
    assert one["worst"][0]["image_id"] == max(one["images"], key=lambda x: (x["mistakes"], -x["image_id"]))["image_id"]
    assert len({json.dumps(x["metrics"]) for x in found}) == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--save-csv", "missing/classes.csv"), "the folder missing does not exist"),
        (("--save-csv", "."), "is a directory"),
        (("--split", "testdev", "--save-csv", "x.csv"), "--save-csv has nothing to write for testdev"),
        (("--split", "testdev", "--compare", "{folder}/other.pth"), "testdev has no annotations"),
        (("--compare", "{folder}/coco/annotations/instances_val2017.json"), "instances_val2017.json"),
        (("--compare", "{folder}/missing.pth"), "missing.pth"),
        (("--compare", "{folder}/four.pth"), "four.pth"),
        (("--score", "1.1"), "--score"),
        (("--shown", "-1"), "--shown"),
    ],
)
def test_wrong_input_is_refused_before_the_first_image(
    folder: Path, tmp_path: Path, words: tuple[str, ...], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "four.pth").write_bytes((folder / "other.pth").read_bytes()[:1000])
    monkeypatch.setattr(Predictor, "stream", lambda *_, **__: pytest.fail("an image was read"))
    monkeypatch.chdir(tmp_path)
    done = verify(folder, *(word.format(folder=folder) for word in words))
    assert done.exit_code in (1, 2), done.output
    assert message in done.output.replace("\n", " ")
    assert list(tmp_path.iterdir()) == []


def test_options_of_an_evaluation_need_a_data_set(folder: Path) -> None:
    for option, value in (("--compare", "x.pth"), ("--save-csv", "x.csv"), ("--score", "0.5"), ("--shown", "3")):
        done = CliRunner().invoke(cli.verify, [str(folder / "model.pth"), option, value])
        assert done.exit_code == 2
        assert f"{option} needs --coco" in done.output
