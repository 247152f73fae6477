"""Evaluation of a small untrained model on four images."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image

import cli
from converter.errors import SourceError
from effdet_torch.data.sources import DataSource
from effdet_torch.errors import ConfigError, EvaluationError
from effdet_torch.metrics.coco import METRICS, coco_metrics
from support.coco_samples import annotation_file, change_annotations, evaluate_coco, result, write_coco, write_model
from support.image_memory import ImageMemory
from verify.detections.results_file import read_results, to_submission
from verify.detections.run import CocoSettings, Evaluation
from verify.evaluation import Beside, verify_detections
from verify.results.verification import Verification

SETTINGS = CocoSettings(workers=0, batch=1)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "model.pth")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_coco(tmp_path / "coco")


def evaluate(model: Path, root: Path, *rest: Any, **more: Any) -> Evaluation:
    evaluation = evaluate_coco(model, root, *rest, **more)
    assert evaluation is not None
    return evaluation


# Metrics.


def test_metrics_of_known_detections(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dataset = json.loads(annotation_file(root).read_text())
    image_ids = [3, 5, 7, 12]
    perfect = [result(x["image_id"], x["category_id"], x["bbox"], 0.9) for x in dataset["annotations"]]
    metrics = coco_metrics(dataset, perfect, image_ids)
    assert tuple(metrics) == METRICS
    assert (metrics["AP"], metrics["AP_small"], metrics["AP_large"]) == (pytest.approx(1), pytest.approx(1), -1)
    # Images without detections count.
    assert coco_metrics(dataset, perfect[:2], image_ids)["AR100"] == pytest.approx(0.5)
    assert coco_metrics(dataset, perfect[:2], [x["image_id"] for x in perfect[:2]])["AR100"] == pytest.approx(1)
    assert set(coco_metrics(dataset, [], image_ids).values()) == {0.0, -1.0}
    assert set(coco_metrics(dataset | {"annotations": []}, perfect, image_ids).values()) == {-1.0}
    assert capsys.readouterr() == ("", "")


# Results and what an interrupted run leaves.


def test_results_are_written(root: Path, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "results.json"
    evaluation = evaluate(model, root, SETTINGS, out)
    assert read_results(out) == evaluation.results != []
    assert sorted(tmp_path.iterdir()) == [root, out]
    larger = evaluate(model, root, replace(SETTINGS, image_size=(96, 64)))
    assert larger.predictor.config.image_size == (96, 64)
    assert larger.results != evaluation.results


@pytest.mark.parametrize("batch", [1, 8])
def test_only_the_images_in_flight_are_in_memory(
    root: Path, model: Path, batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = json.loads(annotation_file(root).read_text())["images"]
    change_annotations(root, images=[images[n % 4] | {"id": n} for n in range(1, 101)])
    memory = ImageMemory(monkeypatch)
    evaluation = evaluate(model, root, CocoSettings(workers=0, batch=batch))
    assert {x["image_id"] for x in evaluation.results} == set(range(1, 101))
    assert len(memory.counts) == 100
    assert max(memory.counts) == batch + 1
    assert not memory.alive


def test_the_gpu_is_taken_if_there_is_one(root: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `effdet-detect` does; here there is none, so that taking it is an error."""
    assert evaluate(model, root, SETTINGS).predictor.device_type == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(ConfigError, match="the device 'cuda' cannot be used"):
        evaluate(model, root, SETTINGS)
    assert evaluate(model, root, replace(SETTINGS, device="cpu")).predictor.device_type == "cpu"


def test_beside_tensorflow_the_cpu_is_taken(root: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    source, settings = DataSource(coco=root), replace(SETTINGS, limit=1)
    with pytest.raises(ConfigError, match="the device 'cuda' cannot be used"):
        verify_detections(model, source, settings)
    with pytest.raises(SourceError, match="missing"):  # after the image
        verify_detections(model, source, settings, Beside(checkpoint=root / "missing"))


@pytest.mark.parametrize(("name", "value"), [("limit", 0), ("batch", 0), ("workers", -1)])
def test_numbers_that_are_too_small(name: str, value: int) -> None:
    with pytest.raises(ConfigError, match=f"{name} is {value}; expected at least {value + 1}"):
        CocoSettings(**{name: value})


def interrupt(model: Path, root: Path, out: Path, count: int) -> Path:
    """Stop a run after some images; return the file that it leaves."""

    def progress(done: int, total: int) -> None:
        assert total == 4
        if done == count:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate_coco(model, root, SETTINGS, out, progress=progress)
    return out.with_name(f"{out.name}.partial")


def test_an_interrupted_run_is_resumed(root: Path, model: Path, tmp_path: Path) -> None:
    out, counts = tmp_path / "results.json", list[int]()
    partial = interrupt(model, root, out, 2)
    with partial.open("ab") as stream:
        stream.write(b'{"image": "12 st')  # cut off while it was written
    faster = CocoSettings(workers=0, batch=4)
    resumed = evaluate(model, root, faster, out, progress=lambda done, total: counts.append(done))
    assert counts == [3, 4]
    assert resumed.results == evaluate(model, root, SETTINGS).results
    assert not partial.exists()


def test_what_is_done_is_not_done_again(root: Path, model: Path, tmp_path: Path) -> None:
    """Negative control of the one above: what the partial file says is believed."""
    out = tmp_path / "results.json"
    partial = interrupt(model, root, out, 2)
    header, first, second = partial.read_text().splitlines()
    marked = json.loads(first) | {"detections": []}
    partial.write_text(f"{header}\n{json.dumps(marked)}\n{second}\n")
    (image_id,) = {x["image_id"] for x in json.loads(first)["detections"]}
    assert image_id not in {x["image_id"] for x in evaluate(model, root, SETTINGS, out).results}


@pytest.mark.parametrize("change", ["pixels", "time", "folder"])
def test_an_image_whose_file_differs_is_detected_again(
    root: Path, model: Path, tmp_path: Path, change: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out, counts = tmp_path / "results.json", list[int]()
    partial = interrupt(model, root, out, 3)
    lines = partial.read_text().splitlines()
    kept_id, *_ = (line["detections"][0]["image_id"] for line in map(json.loads, lines[1:]))
    folder, images = root / "val2017", json.loads(annotation_file(root).read_text())["images"]
    assert capsys.readouterr().err == ""
    if change == "folder":  # the same names and sizes, other pictures
        folder.rename(root / "first")
        folder.mkdir()
    for image in images:
        path = folder / image["file_name"]
        if change == "folder":
            Image.new("RGB", (image["width"], image["height"]), "gray").save(path)
        elif change == "time":
            os.utime(path, ns=(0, path.stat().st_mtime_ns + (image["id"] != kept_id)))
        elif image["id"] != kept_id:
            Image.new("RGB", (image["width"], image["height"]), "gray").save(path)
    resumed = evaluate(model, root, SETTINGS, out, progress=lambda done, total: counts.append(done))
    kept = 0 if change == "folder" else 1
    assert counts == list(range(kept + 1, 5))
    note = f"resuming an interrupted run of results.json; {kept} of 4 images are kept\n"
    assert capsys.readouterr().err == note
    assert resumed.results == evaluate(model, root, SETTINGS).results


@pytest.mark.parametrize("role", ["other", "reference"])
def test_two_models_are_both_resumed(root: Path, model: Path, tmp_path: Path, role: str) -> None:
    out, second = tmp_path / "results.json", write_model(tmp_path / "second.pth", seed=1)
    beside = Beside(model=second) if role == "other" else Beside(checkpoint=second)
    begun = list[float]()

    def verify(stop: int | None = None, results: Path | None = out) -> Verification:
        def progress(done: int, total: int) -> None:
            begun.append(done)
            if len(begun) == stop:
                raise KeyboardInterrupt

        begun.clear()
        done = verify_detections(model, DataSource(coco=root), SETTINGS, beside, results, progress=progress)
        assert done is not None
        return done

    with pytest.raises(KeyboardInterrupt):
        verify(stop=6)  # 4 images with the first model, 2 with the second
    kept = sorted(path.name for path in tmp_path.glob("*.partial"))
    assert kept == sorted(["results.json.partial", f"results.json.{role}.partial"])
    resumed = verify()
    assert len(begun) == 2
    assert not list(tmp_path.glob("*.partial"))
    whole = verify(results=None)
    assert len(begun) == 8  # negative control: nothing is kept without a file
    assert (resumed.detection, resumed.reference) == (whole.detection, whole.reference)
    assert not list(tmp_path.glob("*.partial"))


def test_what_was_kept_of_a_second_model_goes_when_a_run_without_it_ends(
    root: Path, model: Path, tmp_path: Path
) -> None:
    out = tmp_path / "results.json"
    kept = interrupt(model, root, out, 2)
    left, foreign = (tmp_path / f"results.json.{name}.partial" for name in ("reference", "other"))
    kept.rename(left)
    for stranger in (foreign, tmp_path / "more.json.reference.partial"):
        stranger.write_text('{"model": "of something else"}\n')
    assert verify_detections(model, DataSource(coco=root), SETTINGS, out=out)
    assert not left.exists()
    assert len(list(tmp_path.glob("*.partial"))) == 2  # negative control


@pytest.mark.parametrize("change", ["model", "profile", "limit", "annotations"])
def test_results_of_another_run_are_not_mixed(root: Path, model: Path, tmp_path: Path, change: str) -> None:
    out, settings = tmp_path / "results.json", SETTINGS
    partial = interrupt(model, root, out, 1)
    kept = partial.read_bytes()
    if change in ("profile", "limit"):
        settings = replace(settings, **{"profile": {"profile": "serving"}, "limit": {"limit": 3}}[change])
    if change == "model":
        model = write_model(tmp_path / "other.pth", seed=1)
    if change == "annotations":
        change_annotations(root, info={})
    with pytest.raises(EvaluationError, match=f"with another {change}"):
        evaluate_coco(model, root, settings, out)
    assert partial.read_bytes() == kept
    assert not out.exists()


# The command.


def verify(*words: object) -> Result:
    return CliRunner().invoke(cli.verify, [str(word) for word in words])


def test_other_detections_fail(root: Path, model: Path, tmp_path: Path) -> None:
    expected, report = tmp_path / "expected.json", tmp_path / "report"
    expected.write_text(json.dumps([result(3, 1, (1, 2, 30, 40), 0.9)]))
    words = (model, "--coco", root, "--workers", 0, "--reference-results", expected, "--report-dir", report)
    done = verify(*words)
    assert done.exit_code == 1
    assert "detections (1 in expected.json, " in " ".join(done.stdout.split())
    detection = json.loads((report / "report.json").read_text())["detection"]
    assert (detection["parity"]["first_difference"], detection["passed"]) == (3, False)


def test_testdev_writes_the_submission(root: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_coco(root, split="testdev")
    monkeypatch.chdir(root)
    done = verify(model, "--coco", ".", "--split", "testdev", "--workers", 0)
    assert done.exit_code == 0
    assert "AP" not in done.stdout
    results = read_results(root / "detections_test-dev2017_model_results.json")
    assert results == to_submission(results) != []


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (("--split", "train2017"), 1, "instances_train2017.json cannot be read"),
        (("--evaluator", "hottest"), 2, "unknown evaluator 'hottest'; expected auto or one of pycocotools, hotcoco"),
        (("--profile", "hardest"), 2, "unknown postprocessing profile 'hardest'"),
        (("--device", "abacus"), 2, "the device 'abacus' cannot be used"),
        (("--image-size", "64x3"), 2, "two integers from 32 to 8192"),
        (("--reference-results", "nothing.json"), 1, "nothing.json cannot be read"),
        (("--reference", "checkpoint"), 2, "--limit N"),
        (("--split", "testdev", "--reference-results", "x.json"), 1, "nothing to compare with"),
        (("--graph",), 2, "--graph cannot be combined with --coco, --annotations or --data"),
        (("--dtype", "float64"), 2, "--dtype cannot be combined with --coco"),
        (("--results", "r.csv"), 2, "r.csv ends in .csv, but what is written is JSON"),
        (("--report-dir", "-"), 2, "- is stdout; name a folder"),
        (("--compare", "."), 2, ". is a folder; name a file"),
        (("--labels", "missing.txt"), 2, "missing.txt: No such file or directory; check its name and folder"),
        (("--demo", "d0"), 2, "--demo cannot be combined with --coco"),
        (("--results", "no/folder.json"), 2, "does not exist; create it first"),
        (("--batch", "0"), 2, "--batch"),
    ],
)
def test_errors(root: Path, model: Path, options: tuple[str, ...], code: int, message: str) -> None:
    done = verify(model, "--coco", root, *options)
    assert (done.exit_code, done.stdout) == (code, "")
    assert message in " ".join(done.stderr.split())


def test_quiet_names_the_reason_of_a_failure(root: Path, model: Path, tmp_path: Path) -> None:
    assert verify(model, "--coco", root, "--results", tmp_path / "r.json", "-q").stdout.count("\n") == 1
    results = json.loads((tmp_path / "r.json").read_text())
    (tmp_path / "r.json").write_text(json.dumps([x | {"score": x["score"] / 2} for x in results]))
    done = verify(model, "--coco", root, "--reference-results", tmp_path / "r.json", "-q")
    assert done.exit_code == 1
    verdict, reason = done.stdout.splitlines()
    assert verdict.startswith("FAIL - ")
    assert reason == "The detections differ from what was expected. Failed: reference results."


def test_swapped_arguments(root: Path, model: Path) -> None:
    done = verify(root, "--coco", model)
    assert (done.exit_code, "did you swap it with MODEL?" in done.stderr) == (2, True)


def test_words_that_are_missing_and_classes_that_do_not_fit(root: Path, model: Path, tmp_path: Path) -> None:
    done = verify(model, "--reference", "checkpoint", "--limit", 3)
    assert (done.exit_code, "--limit needs --coco ROOT, --annotations FILE or --data DIR" in done.stderr) == (2, True)
    done = verify("--coco", root)
    assert (done.exit_code, "MODEL is missing: pass the converted file" in done.stderr) == (2, True)
    done = verify(write_model(tmp_path / "one.pth", num_classes=1), "--coco", root)
    assert (done.exit_code, "the ids 2 are not among the model's 1 to 1" in done.stderr) == (1, True)
