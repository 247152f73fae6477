"""`effdet-convert` as its users run it; what every option does is tested in tests/unit/converter."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import support.tiny_bundle as tiny
from converter.conversion import convert_checkpoint, prepare
from converter.locate import open_checkpoint
from converter.writers.targets import choose_target
from support.commands import run, run_here
from support.sources import averages, plan_of, seeded, small_config, write_checkpoint

Done = subprocess.CompletedProcess[str]
PLAN = plan_of(small_config())


@pytest.fixture(scope="module")
def trained(shared: Path) -> Path:
    return shared / "trained_d0_256"


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small checkpoint with both copies."""
    arrays = {**seeded(PLAN), **averages(seeded(PLAN, 1)), "global_step": np.array(7, np.int64)}
    return write_checkpoint(tmp_path_factory.mktemp("small") / "model.ckpt-7", arrays)


def failed(done: Done, code: int) -> str:
    """Return the message of a run that ended with an exit code: one message, not a traceback."""
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert "Error: " in done.stderr
    return " ".join(done.stderr.split())


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_converts_without_options(trained: Path, tmp_path: Path) -> None:
    done = run("effdet-convert", trained, "d0.pth", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    lines = {line.split()[0]: line for line in done.stdout.splitlines()}
    assert "d0, 90 classes, 9 anchors per location, 256 x 256 pixels, " in lines["model"]
    assert "1912: 709 converted (36 biases folded into batch norms), 709 other copies" in lines["variables"]
    assert lines["result"].split(maxsplit=1)[1].startswith("d0.pth: 748 tensors, ")
    assert names(tmp_path) == {"d0.pth"}
    metadata = torch.load(tmp_path / "d0.pth", weights_only=True)["metadata"]
    assert metadata["variant"] == "d0"
    assert metadata["config"]["image_size"] == [256, 256]
    assert metadata["config_origins"]["image_size"] == "config.yaml"
    assert metadata["source"]["name"] == "trained_d0_256"
    digests = {file["name"]: file["sha256"] for file in metadata["source"]["files"]}
    index = trained / "model.ckpt-780.index"
    assert digests[index.name] == hashlib.sha256(index.read_bytes()).hexdigest()
    assert len(digests) == 2


@pytest.mark.parametrize(
    ("out", "options", "arguments"),
    [
        ("m.pth", [], {}),
        (
            "m.safetensors",
            ["--hparams", "image_size=640x384,anchor_scale=3.0"],
            {"hparams": "image_size=640x384,anchor_scale=3.0"},
        ),
        ("m.h5", [], {}),
        ("m", ["--to", "tf1"], {"to": "tf1"}),
        ("m.pth", ["--layout", "effdet"], {"bare": True}),
        ("m.pth", ["--keep-redundant-bias", "--weights", "raw"], {"keep_redundant_bias": True, "weights": "raw"}),
    ],
)
def test_python_writes_the_files_of_the_command(
    small: Path, tmp_path: Path, out: str, options: list[str], arguments: dict[str, Any]
) -> None:
    for folder in ("command", "python"):
        (tmp_path / folder).mkdir()
    done = run_here("effdet-convert", small.name, tmp_path / "command" / out, *options, cwd=small.parent)
    assert (done.returncode, done.stderr) == (0, "")
    target, bare = choose_target(tmp_path / "python" / out, arguments.pop("to", None)), arguments.pop("bare", False)
    with open_checkpoint(small) as source:
        convert_checkpoint(prepare(source, **arguments), tmp_path / "python" / out, target=target, bare=bare)
    contents = [
        {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        for folder in (tmp_path / "command", tmp_path / "python")
    ]
    assert contents[0] == contents[1]
    assert contents[0]


def test_a_dry_run_needs_the_index_alone_and_writes_only_a_report(trained: Path, tmp_path: Path) -> None:
    shutil.copy(trained / "model.ckpt-780.index", tmp_path / "model.index")
    done = run("effdet-convert", "model.index", "m.pth", "--dry-run", "--report", "report.json", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "complete: 748 tensors would be written (dry run)" in done.stdout
    report = json.loads((tmp_path / "report.json").read_text())
    assert (report["ok"], report["dry_run"], report["out"], report["tensors"]) == (True, True, None, 748)
    # Without --dry-run it fails, and names the missing file.
    assert "model.data-00000-of-00001" in failed(run("effdet-convert", "model.index", "d0.pth", cwd=tmp_path), 1)
    assert names(tmp_path) == {"model.index", "report.json"}


def test_a_report_of_success(small: Path, tmp_path: Path) -> None:
    done = run_here("effdet-convert", small, "m.pth", "--report", "report.json", "--weights", "raw", cwd=tmp_path)
    assert done.returncode == 0
    report = json.loads((tmp_path / "report.json").read_text())
    size = (tmp_path / "m.pth").stat().st_size
    assert (report["ok"], report["out"]) == (True, {"path": "m.pth", "size_bytes": size})
    assert report["view"] == {"name": "raw", "reason": "asked for"}
    assert report["source"]["files"][0].keys() == {"name", "size_bytes", "sha256"}


def test_a_report_of_failure_lists_every_problem(tmp_path: Path) -> None:
    arrays = seeded(PLAN)
    gone = [name for name in arrays if name.startswith("fpn_cells/cell_0/fnode1/")]
    write_checkpoint(tmp_path / "model", {name: array for name, array in arrays.items() if name not in gone})
    done = run("effdet-convert", "model", "m.pth", "--report", "report.json", cwd=tmp_path)
    assert f"model is not a complete d0: {len(gone)} missing, 0 unexpected, 0 mismatched" in failed(done, 1)
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["ok"] is False
    assert report["error"] == done.stderr.removeprefix("Error: ").rstrip("\n")
    assert sorted(report["problems"]) == sorted(f"missing: {name}" for name in gone)
    assert not (tmp_path / "m.pth").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ((), 2, "Missing argument 'SOURCE'"),
        (("SMALL",), 2, "OUT is missing: name the file to write, or use --dry-run"),
        (("SMALL", "m.pth", "--varaint", "d0"), 2, "No such option"),
        (("SMALL", "m.pth", "--weights", "both"), 2, "'both' is not one of 'ema', 'raw'"),
        (("SMALL", "m.pth", "extra"), 2, "unexpected extra argument"),
        (("SMALL", "m.pth", "--variant", "d7y"), 2, "did you mean 'd7'?"),
        (("SMALL", "m.pth", "--hparams", "image_size"), 2, "hyperparameter 'image_size' is not of the form key=value"),
        (("SMALL", "m.bin"), 2, "m.bin ends in '.bin'; expected one of .pth, .pt, .safetensors"),
        (("SMALL", "m.h5", "--layout", "effdet"), 2, "it cannot be combined with --to h5"),
        (("SMALL", "m.pth", "--report", "absent/r.json"), 2, "the folder absent does not exist; create it first"),
        (("SMALL", "m.pth", "--report", "."), 2, "is a folder; name a file"),
        (("SMALL", "m.pth", "--variant", "d1"), 1, "not d1: backbone efficientnet-b0 (expected efficientnet-b1)"),
        (("absent/model.ckpt-1", "m.pth"), 1, "no such file"),
        (("V1", "m.pth"), 1, "this is a TensorFlow V1 checkpoint"),
    ],
)
def test_failures_are_one_message(
    small: Path, tmp_path: Path, arguments: tuple[str, ...], code: int, words: str
) -> None:
    v1 = small.parent / "v1.ckpt"
    v1.write_bytes(tiny.table({b"": tiny.nested(1, b"")}))
    sources = {"SMALL": small, "V1": v1}
    done = run_here("effdet-convert", *(sources.get(word, word) for word in arguments), cwd=tmp_path)
    assert words in failed(done, code)
    assert names(tmp_path) == set()


def test_an_output_that_links_to_itself_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    write_checkpoint(tmp_path / "source" / "model", seeded(PLAN))
    (tmp_path / "loop.pth").symlink_to("loop.pth")
    done = run_here("effdet-convert", "source/model", "loop.pth", "--report", "r.json", cwd=tmp_path)
    assert "Traceback" not in done.stderr
    assert done.returncode in (0, 1)


def test_out_is_named_by_place_or_by_option(small: Path, tmp_path: Path) -> None:
    """Both ways write the same file, and both are checked; the two together are not meant."""
    for name, words in {"a.pth": ["a.pth"], "b.pth": ["-o", "b.pth"]}.items():
        assert run_here("effdet-convert", small, *words, cwd=tmp_path).stdout.splitlines()[-1].split()[1] == f"{name}:"
    assert (tmp_path / "a.pth").read_bytes() == (tmp_path / "b.pth").read_bytes()
    text = failed(run_here("effdet-convert", small, "c.pth", "-o", "d.pth", cwd=tmp_path), 2)
    assert "OUT is given twice: c.pth and -o d.pth; give one of them" in text
    assert names(tmp_path) == {"a.pth", "b.pth"}
    text = failed(run_here("effdet-convert", tmp_path / "a.pth", "-o", "a.pth", cwd=tmp_path), 2)
    assert "OUT a.pth would overwrite" in text


def test_quiet_prints_what_was_asked_for(small: Path, tmp_path: Path) -> None:
    done = run_here("effdet-convert", small, "a.pth", "-q", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert names(tmp_path) == {"a.pth"}
    done = run("effdet-convert", small, "--dry-run", "-q", "--report", "-", cwd=tmp_path)
    assert (json.loads(done.stdout)["ok"], done.stderr) == (True, "")
    assert "no such file" in failed(run_here("effdet-convert", "absent", "b.pth", "-q", cwd=tmp_path), 1)
    done = run_here("effdet-inspect", small, "-q", "--json", cwd=tmp_path)
    assert json.loads(done.stdout)["variables"] > 0
    done = run_here("effdet-inspect", small, "-q", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_verbose_names_the_steps(small: Path, tmp_path: Path) -> None:
    plain = run_here("effdet-convert", small, "a.pth", cwd=tmp_path)
    done = run_here("effdet-convert", small, "a.pth", "-v", "--report", "r.json", cwd=tmp_path)
    assert (done.returncode, done.stdout, plain.stderr) == (0, plain.stdout, "")
    seconds, steps = zip(*(line.split(" s  ") for line in done.stderr.splitlines()), strict=True)
    assert [step.split()[0] for step in steps] == ["opened", "recognised", "converted", "wrote", "wrote"]
    assert sorted(map(float, seconds)) == list(map(float, seconds))
