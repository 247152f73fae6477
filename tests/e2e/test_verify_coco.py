"""`effdet-verify --coco` as a user runs it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import cli
from effdet_torch.metrics.coco import METRICS, coco_metrics
from effdet_torch.metrics.evaluators import EVALUATORS, RECORD, get_evaluator
from support.coco_samples import (
    annotation,
    annotation_file,
    change_annotations,
    convert_trained,
    evaluate_coco,
    write_coco,
    write_model,
)
from support.commands import run, run_here, script
from verify.detections.run import CocoSettings

Done = subprocess.CompletedProcess[str]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small untrained model and a folder of four images; tests that change something make their own."""
    root = tmp_path_factory.mktemp("evaluation")
    write_coco(root / "coco")
    write_model(root / "model.pth")
    return root


def evaluate(folder: Path, *more: object, cwd: Path | None = None, command: Callable[..., Done] = run_here) -> Done:
    return command("effdet-verify", folder / "model.pth", "--coco", folder / "coco", *more, cwd=cwd or folder)


def test_metrics_results_and_reports(folder: Path, tmp_path: Path) -> None:
    done = evaluate(folder, "--results", "results.json", "--report-dir", "report", cwd=tmp_path, command=run)
    assert done.returncode == 0, done.stderr
    assert "AP_medium" in done.stdout
    assert done.stdout.startswith("EVALUATED - rests on ")
    assert "PASS" not in done.stdout
    results: list[dict[str, Any]] = json.loads((tmp_path / "results.json").read_text())
    assert [x["image_id"] for x in results] == sorted(x["image_id"] for x in results)
    assert {tuple(x) for x in results} == {("image_id", "category_id", "bbox", "score")}
    detection = json.loads((tmp_path / "report" / "report.json").read_text())["detection"]
    assert (detection["images"], detection["detections"], detection["complete"]) == (4, len(results), True)
    assert tuple(detection["metrics"]) == METRICS
    assert detection["evaluator"] == str(get_evaluator())
    assert {path.name for path in tmp_path.iterdir()} == {"results.json", "report"}

    again = evaluate(folder, "--workers", "0", "--batch", "3", "--reference-results", "results.json", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert again.stdout.startswith("PASS - rests on ")
    count = sum(x["score"] >= 0.05 for x in results)
    matched = f"{count} of {count} detections ({count} in results.json, 0 more) matched: 100.00 %"
    assert matched in " ".join(again.stdout.split())


@pytest.mark.parametrize("name", EVALUATORS)
def test_the_evaluator_is_named_and_changes_nothing(folder: Path, tmp_path: Path, name: str) -> None:
    if name != RECORD:
        pytest.importorskip(name, reason=f"{name} (extra `fast-eval`) is not installed")
    done = evaluate(folder, "--workers", "0", "--evaluator", name, "--report-dir", "report", cwd=tmp_path)
    assert f"metrics by {get_evaluator(name)}." in " ".join(done.stdout.split())
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    assert report["settings"]["evaluator"] == name
    assert report["settings"]["device"] == "cpu"
    dataset, ids = json.loads(annotation_file(folder / "coco").read_text()), [3, 5, 7, 12]
    results = evaluate_coco(folder / "model.pth", folder / "coco", CocoSettings(workers=0))
    assert results is not None
    assert report["detection"]["metrics"] == coco_metrics(dataset, results.results, ids)


def test_a_claim_that_is_too_weak(folder: Path) -> None:
    done = evaluate(folder, "--limit", "1", "--workers", "0", "--require", "graph")
    assert done.returncode == 1, done.stderr
    assert done.stdout.startswith("FAIL - rests on ")
    assert "--require graph asks for more" in " ".join(done.stdout.split())


@pytest.mark.parametrize("count", [3, pytest.param(50, marks=pytest.mark.slow)])
def test_detect_and_verify_write_the_same(shared: Path, tmp_path: Path, count: int) -> None:
    model, photos = convert_trained(shared, tmp_path / "d0.pth"), shared / "coco50" / "val2017"
    options: dict[str, list[object]] = {
        "detect": ["--score", 0, "--no-exif", "--profile", "official-eval", *sorted(photos.iterdir())[:count]],
        "other": ["--score", 0, "--no-exif", "--profile", "official-eval-hard", *sorted(photos.iterdir())[:count]],
        "verify": ["--coco", photos.parent, "--limit", count],
    }
    for name, words in options.items():
        command, option = (cli.verify, "--results") if name == "verify" else (cli.detect, "--json")
        done = CliRunner().invoke(command, list(map(str, [model, option, tmp_path / name, *words])))
        assert done.exit_code == 0, done.output
    detected, others, verified = (json.loads((tmp_path / name).read_text()) for name in options)
    for entry in (*detected, *others):
        del entry["category_name"]  # verify writes what COCO's server takes
    assert verified == detected
    assert len(verified) == 100 * count
    assert verified != others  # negative control: another NMS


def test_a_damaged_image_is_named(tmp_path: Path) -> None:
    write_coco(tmp_path / "coco")
    write_model(tmp_path / "model.pth")
    (tmp_path / "coco" / "val2017" / "000000000005.jpg").write_bytes(b"no image")
    done = evaluate(tmp_path, command=run)
    assert done.returncode == 1
    assert "000000000005.jpg is not an image" in done.stderr
    assert done.stderr.startswith("Error: ")
    assert done.stderr.count("\n") == 1


def listen_to_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="interrupts with a POSIX signal")
def test_an_interrupted_run_is_resumed(tmp_path: Path) -> None:
    root = write_coco(tmp_path / "coco")
    images = json.loads(annotation_file(root).read_text())["images"]
    many = [images[n % 4] | {"id": n} for n in range(1, 401)]
    change_annotations(root, images=many, annotations=[annotation(1, 1, 1, (2, 3, 20, 15))])
    write_model(tmp_path / "model.pth")
    options = ("model.pth", "--coco", "coco", "--workers", "0", "--batch", "2", "--results", "results.json")
    partial = tmp_path / "results.json.partial"
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    words = [script("effdet-verify"), *options]
    # Tests that run in the background inherit an ignored SIGINT; a command that somebody interrupts has not.
    with subprocess.Popen(words, cwd=tmp_path, preexec_fn=listen_to_interrupts, **quiet) as process:
        deadline = time.monotonic() + 60
        while not (partial.exists() and partial.read_bytes().count(b"\n") > 10) and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
    kept = partial.read_bytes()
    assert 10 < kept.count(b"\n") < 400
    assert not (tmp_path / "results.json").exists()
    resumed = run("effdet-verify", *options, cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    assert not partial.exists()
    assert {x["image_id"] for x in json.loads((tmp_path / "results.json").read_text())} == set(range(1, 401))


@pytest.mark.slow
def test_two_processes_give_the_same(folder: Path, tmp_path: Path) -> None:
    alone = evaluate(folder, "--workers", "0", "--results", "alone.json", cwd=tmp_path)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--no-python"]
    words = [*torchrun, script("effdet-verify"), folder / "model.pth", "--coco", folder / "coco", "--workers", "0"]
    together = subprocess.run(
        [*map(str, words), "--results", "together.json"], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert (alone.returncode, together.returncode) == (0, 0), together.stderr
    assert (tmp_path / "alone.json").read_bytes() == (tmp_path / "together.json").read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"alone.json", "together.json"}
    assert together.stdout.count("COCO metrics") == 1


def test_quiet_prints_the_verdict_and_verbose_the_steps(folder: Path, tmp_path: Path) -> None:
    words = ("--limit", "1", "--workers", "0", "--report-dir", str(tmp_path / "report"))
    plain, quiet, verbose = (evaluate(folder, *words, *more) for more in ([], ["-q"], ["-v"]))
    assert (quiet.returncode, quiet.stdout, quiet.stderr) == (0, f"{plain.stdout.splitlines()[0]}\n", "")
    assert len(plain.stdout.splitlines()) > 10
    steps = [line.partition(" s  ")[2].split()[0] for line in verbose.stderr.splitlines() if " s  " in line]
    assert steps == ["read", "loaded", "detected", "computed", "wrote"]
    weak = evaluate(folder, *words, "--require", "graph", "-q")
    assert (weak.returncode, len(weak.stdout.splitlines())) == (1, 2)  # a failure, and its reason
