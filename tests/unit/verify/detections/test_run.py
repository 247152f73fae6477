"""Evaluation of a small untrained model on four images."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import cli
from effdet_torch.errors import EvaluationError
from effdet_torch.metrics.coco_metrics import METRICS, coco_metrics
from support.coco_samples import change_annotations, result, write_coco, write_model
from verify.detections.published import VAL_IMAGES, compare_with_published, published_ap
from verify.detections.results_file import PartialResults, read_results, to_submission
from verify.detections.run import CocoSettings, Evaluation, evaluate_coco

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


def stop_after(count: int) -> Callable[[int, int], None]:
    def progress(done: int, total: int) -> None:
        if done == count:
            raise KeyboardInterrupt

    return progress


# Metrics.


def test_perfect_detections_have_an_ap_of_one(root: Path, model: Path) -> None:
    split = evaluate(model, root, SETTINGS).split
    truth = split.dataset["annotations"]
    perfect = [result(x["image_id"], x["category_id"], x["bbox"], 0.9) for x in truth]
    metrics = coco_metrics(split.dataset, perfect, split.image_ids)
    assert tuple(metrics) == METRICS
    assert (metrics["AP"], metrics["AP_small"], metrics["AP_large"]) == (pytest.approx(1), pytest.approx(1), -1)


def test_no_detections_at_all(root: Path, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    split = evaluate(model, root, SETTINGS).split
    metrics = coco_metrics(split.dataset, [], split.image_ids)
    assert set(metrics.values()) == {0.0, -1.0}
    assert capsys.readouterr() == ("", "")


def test_no_objects_at_all(root: Path, model: Path) -> None:
    change_annotations(root, annotations=[])
    assert set(evaluate(model, root, SETTINGS).metrics.values()) == {-1.0}


def test_images_without_detections_count(root: Path, model: Path) -> None:
    split = evaluate(model, root, SETTINGS).split
    truth = split.dataset["annotations"]
    half = [result(x["image_id"], x["category_id"], x["bbox"], 0.9) for x in truth[:2]]
    assert coco_metrics(split.dataset, half, split.image_ids)["AR100"] == pytest.approx(0.5)
    assert coco_metrics(split.dataset, half, [x["image_id"] for x in half])["AR100"] == pytest.approx(1)


# Results and what an interrupted run leaves.


def test_results_are_written(root: Path, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "results.json"
    evaluation = evaluate(model, root, SETTINGS, out)
    assert read_results(out) == evaluation.results != []
    assert sorted(tmp_path.iterdir()) == [root, out]


def test_the_image_size_can_be_another(root: Path, model: Path) -> None:
    larger = evaluate(model, root, CocoSettings(workers=0, image_size=(96, 64)))
    assert larger.model.config.image_size == (96, 64)
    assert larger.results != evaluate(model, root, SETTINGS).results


def test_an_interrupted_run_goes_on(root: Path, model: Path, tmp_path: Path) -> None:
    out, counts = tmp_path / "results.json", list[int]()
    with pytest.raises(KeyboardInterrupt):
        evaluate_coco(model, root, SETTINGS, out, progress=stop_after(2))
    partial = tmp_path / "results.json.partial"
    with partial.open("ab") as stream:
        stream.write(b'{"image_id": 12, "detec')  # cut off while it was written
    faster = CocoSettings(workers=0, batch=4)
    resumed = evaluate(model, root, faster, out, progress=lambda done, total: counts.append(done))
    assert counts == [4]
    assert resumed.results == evaluate(model, root, SETTINGS).results
    assert not partial.exists()


def test_what_is_done_is_not_done_again(root: Path, model: Path, tmp_path: Path) -> None:
    """Negative control of the one above: what the partial file says is believed."""
    out = tmp_path / "results.json"
    with pytest.raises(KeyboardInterrupt):
        evaluate_coco(model, root, SETTINGS, out, progress=stop_after(2))
    partial = tmp_path / "results.json.partial"
    header, first, second = partial.read_text().splitlines()
    marked = json.loads(first) | {"detections": []}
    partial.write_text(f"{header}\n{json.dumps(marked)}\n{second}\n")
    assert marked["image_id"] not in {x["image_id"] for x in evaluate(model, root, SETTINGS, out).results}


@pytest.mark.parametrize("change", ["model", "profile", "limit", "annotations"])
def test_results_of_another_run_are_not_mixed(root: Path, model: Path, tmp_path: Path, change: str) -> None:
    out = tmp_path / "results.json"
    with pytest.raises(KeyboardInterrupt):
        evaluate_coco(model, root, SETTINGS, out, progress=stop_after(1))
    kept = (tmp_path / "results.json.partial").read_bytes()
    settings = {"profile": CocoSettings(workers=0, profile="serving"), "limit": CocoSettings(workers=0, limit=3)}
    if change == "model":
        model = write_model(tmp_path / "other.pth", seed=1)
    if change == "annotations":
        change_annotations(root, annotations=[])
    with pytest.raises(EvaluationError, match=f"with another {change}"):
        evaluate_coco(model, root, settings.get(change, SETTINGS), out)
    assert (tmp_path / "results.json.partial").read_bytes() == kept
    assert not out.exists()


def test_files_of_several_processes_are_read_together(tmp_path: Path) -> None:
    out, origin = tmp_path / "results.json", {"model": "x"}
    for rank in (0, 1, 11):
        with PartialResults(out, origin, rank) as partial:
            partial.add({rank: [result(rank, 1, (0, 0, 1, 1), 0.5)]})
    (tmp_path / "results.json.partial.txt").write_text("another file")
    again = PartialResults(out, origin)
    assert set(again.done) == {0, 1, 11}
    again.remove()
    assert [path.name for path in tmp_path.iterdir()] == ["results.json.partial.txt"]


@pytest.mark.parametrize("content", [b"{\n", b'{"model": "x"}\n[]\n', b'{"model": "x"}\n{"image_id": 1}\n'])
def test_a_damaged_partial_file_is_explained(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "r.json.partial").write_bytes(content)
    with pytest.raises(EvaluationError, match=r"r\.json\.partial is damaged: .*delete it"):
        PartialResults(tmp_path / "r.json", {"model": "x"})


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "{}",
        "[1]",
        "[{}]",
        '[{"image_id": 1, "category_id": 1, "bbox": [1, 2, 3], "score": 1}]',
        '[{"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, "4"], "score": 1}]',
        '[{"image_id": "1", "category_id": 1, "bbox": [1, 2, 3, 4], "score": 1}]',
    ],
)
def test_what_is_not_in_the_results_format_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "r.json").write_text(content)
    with pytest.raises(EvaluationError, match=r"COCO results|results format|not a detection"):
        read_results(tmp_path / "r.json")


def test_a_submission_is_rounded() -> None:
    rounded = to_submission([result(1, 2, (1.23456, 0.005, 100.996, 7.0), 0.12345)])
    assert rounded == [result(1, 2, (1.23, 0.01, 101.0, 7.0), 0.123)]


# Published values.


def official(name: str = "efficientdet-d0", variant: str = "d0", **more: Any) -> tuple[dict[str, Any], Any]:
    from effdet_torch.config import get_config

    return {"source": {"name": name}, "view": {"name": more.pop("view", "ema")}}, get_config(variant, **more)


@pytest.mark.parametrize(
    ("name", "variant", "more", "ap"),
    [
        ("efficientdet-d0", "d0", {}, 34.3),
        ("efficientdet-d7x.tar.gz", "d7x", {}, 54.4),
        ("efficientdet-lite3x.tgz", "lite3x", {}, 42.6),
        ("efficientdet-d4-640.tar.gz", "d4", {"image_size": 640}, 45.7),
        ("efficientdet-d0.tar.gz", "d0", {"normalization": "advprop"}, 35.1),
        ("efficientdet-d2.h5", "d2", {}, 43.5),
        ("efficientdet-d0-advprop", "d0", {"normalization": "advprop"}, 35.1),
        ("efficientdet-d1_advprop", "d1", {"normalization": "advprop"}, 40.8),
        ("efficientdet-d6-640", "d6", {"image_size": 640, "redundant_bias": True}, 47.9),
    ],
)
def test_official_checkpoints_are_known(name: str, variant: str, more: dict[str, Any], ap: float) -> None:
    assert published_ap(*official(name, variant, **more)) == (name, ap)


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("mine", {}),
        ("efficientdet-d9", {}),
        ("efficientdet-d1", {}),
        ("efficientdet-d0", {"view": "raw"}),
        ("efficientdet-d0", {"image_size": 640}),
        ("efficientdet-d0", {"num_classes": 20}),
        ("efficientdet-d0-640", {"image_size": 640}),
        ("efficientdet-d0-advprop", {}),
        ("efficientdet-d4-640", {"variant": "d4"}),
        ("efficientdet-d4-640", {"variant": "d4", "image_size": 640, "normalization": "advprop"}),
        ("efficientdet-d6", {"variant": "d6", "normalization": "advprop"}),
    ],
)
def test_other_models_have_no_published_ap(name: str, more: dict[str, Any]) -> None:
    assert published_ap(*official(name, **more)) is None


def test_every_official_file_has_its_published_ap() -> None:
    from converter.identify.official import official_files

    for file in official_files().values():
        for name in (file.name, file.url.rpartition("/")[2]):
            metadata = {"source": {"name": name}, "view": {"name": "ema"}}
            assert published_ap(metadata, file.config) == (name, file.ap)


def test_a_published_ap_is_only_compared_on_all_of_val2017() -> None:
    metadata, config = official()
    near = compare_with_published(metadata, config, "val2017", VAL_IMAGES, 0.3440)
    far = compare_with_published(metadata, config, "val2017", VAL_IMAGES, 0.3418)
    assert near is not None
    assert near.passed
    assert far is not None
    assert not far.passed
    assert compare_with_published(metadata, config, "val2017", VAL_IMAGES - 1, 0.343) is None
    assert compare_with_published(metadata, config, "train2017", VAL_IMAGES, 0.343) is None


# The command.


def verify(*words: object) -> Result:
    return CliRunner().invoke(cli.verify, [str(word) for word in words])


def test_other_detections_fail(root: Path, model: Path, tmp_path: Path) -> None:
    expected, report = tmp_path / "expected.json", tmp_path / "report"
    expected.write_text(json.dumps([result(3, 1, (1, 2, 30, 40), 0.9)]))
    words = (model, "--coco", root, "--workers", 0, "--reference-results", expected, "--report-dir", report)
    done = verify(*words)
    assert done.exit_code == 1
    assert "0 of 1 detections of expected.json matched" in " ".join(done.stdout.split())
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
        (("--profile", "hardest"), 2, "unknown postprocessing profile 'hardest'"),
        (("--device", "abacus"), 2, "the device 'abacus' cannot be used"),
        (("--image-size", "64x3"), 2, "too small"),
        (("--reference-results", "nothing.json"), 1, "nothing.json cannot be read"),
        (("--reference", "checkpoint"), 2, "--limit N"),
        (("--split", "testdev", "--reference-results", "x.json"), 1, "nothing to compare with"),
        (("--graph",), 2, "--graph does not go with --coco"),
        (("--dtype", "float64"), 2, "--dtype does not go with --coco"),
        (("--demo", "d0"), 2, "--demo does not go with --coco"),
        (("--results", "no/folder.json"), 2, "does not exist; create it first"),
        (("--batch", "0"), 2, "--batch"),
    ],
)
def test_errors(root: Path, model: Path, options: tuple[str, ...], code: int, message: str) -> None:
    done = verify(model, "--coco", root, *options)
    assert (done.exit_code, done.stdout) == (code, "")
    assert message in " ".join(done.stderr.split())


def test_options_of_an_evaluation_need_one(model: Path) -> None:
    done = verify(model, "--reference", "checkpoint", "--limit", 3)
    assert done.exit_code == 2
    assert "--limit needs --coco ROOT" in done.stderr


def test_another_models_classes_are_refused(root: Path, tmp_path: Path) -> None:
    done = verify(write_model(tmp_path / "one.pth", num_classes=1), "--coco", root)
    assert (done.exit_code, done.stdout) == (1, "")
    assert "the ids 2 are not among the model's 1 to 1" in done.stderr
