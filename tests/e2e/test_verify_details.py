"""`effdet-verify` with what people look at: classes, confusions, worst images, another model, tables."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch
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
    words = ("--compare", folder / "other.pth", "--score", "0.01", "--report-dir", reports, "--save-csv", table)
    done = verify(folder, *words)
    assert done.exit_code == 0, done.output
    assert done.output.startswith("EVALUATED - rests on settings of unknown origin")
    assert ", the other model on settings of unknown origin" in done.output
    assert done.output.rstrip().endswith("classes_curves.csv")  # files come after what they cannot cost
    assert "PASS" not in done.output
    report = json.loads((reports / "report.json").read_text())
    details, other = report["detection"]["details"], report["detection"]["comparison"]
    assert other["model"]["path"] == "other.pth"
    assert other["model"]["sha256"] != report["model"]["sha256"]
    assert any(image["different"] for image in other["images"])
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
        (("--save-csv", "folder.csv"), "folder.csv is a folder; name a file"),
        (("--save-csv", "{folder}/model.pth"), "does not end in .csv"),
        (("--split", "testdev", "--score", "0.5"), "--score needs annotations, and testdev has none"),
        (("--report-dir", "{folder}/model.pth"), "is a file"),
        (("--split", "testdev", "--save-csv", "x.csv"), "--save-csv needs annotations, and testdev has none"),
        (
            ("--split", "testdev", "--compare", "{folder}/other.pth"),
            "--compare needs annotations, and testdev has none",
        ),
        (("--compare", "{folder}/coco/annotations/instances_val2017.json"), "instances_val2017.json"),
        (("--compare", "{folder}/missing.pth"), "missing.pth"),
        (("--compare", "{folder}/four.pth"), "--compare four.pth: "),
        (("--compare", "{folder}/one_class.pth"), "--compare one_class.pth: instances_val2017.json has 2 categories"),
        (("--score", "1.1"), "--score"),
        (("--shown", "-1"), "--shown"),
    ],
)
def test_wrong_input_is_refused_before_the_first_image(
    folder: Path, tmp_path: Path, words: tuple[str, ...], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "four.pth").write_bytes((folder / "other.pth").read_bytes()[:1000])
    write_model(folder / "one_class.pth", num_classes=1)
    (tmp_path / "folder.csv").mkdir()
    monkeypatch.setattr(Predictor, "stream", lambda *_, **__: pytest.fail("an image was read"))
    monkeypatch.chdir(tmp_path)
    done = verify(folder, *(word.format(folder=folder) for word in words))
    assert done.exit_code in (1, 2), done.output
    assert message in done.output.replace("\n", " ")
    assert [path.name for path in tmp_path.iterdir()] == ["folder.csv"]


def test_a_weak_claim_of_the_other_model_counts(folder: Path, tmp_path: Path) -> None:
    content = torch.load(folder / "model.pth", weights_only=True)
    content["metadata"]["config_origins"] = dict.fromkeys(content["metadata"]["config"], "config.yaml")
    torch.save(content, tmp_path / "stated.pth")
    words = [tmp_path / "stated.pth", "--coco", folder / "coco", "--workers", 0, "--require", "config", "--compare"]
    verdicts = {}
    for name, other in (("stated", tmp_path / "stated.pth"), ("unknown", folder / "other.pth")):
        done = CliRunner().invoke(cli.verify, list(map(str, [*words, other])))
        verdicts[name] = (done.exit_code, done.output.partition(" ")[0])
    assert verdicts == {"stated": (0, "EVALUATED"), "unknown": (1, "FAIL")}


def test_a_file_that_cannot_be_written_does_not_cost_the_result(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "x_images.csv").mkdir()
    done = verify(folder, "--save-csv", tmp_path / "x.csv")
    assert done.exit_code == 1
    assert "AP_medium" in done.output
    assert "x_images.csv cannot be written" in done.output


def test_options_of_an_evaluation_need_a_data_set(folder: Path) -> None:
    for option, value in (("--compare", "x.pth"), ("--save-csv", "x.csv"), ("--score", "0.5"), ("--shown", "3")):
        done = CliRunner().invoke(cli.verify, [str(folder / "model.pth"), option, value])
        assert done.exit_code == 2
        assert f"{option} needs --coco" in done.output
