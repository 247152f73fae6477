"""`effdet-inspect` as its users run it; its texts are tested in tests/unit/converter/test_report.py."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from support.commands import run, run_here
from support.golden_files import check_golden


def test_describes_a_training_checkpoint(request: pytest.FixtureRequest, shared: Path, tmp_path: Path) -> None:
    done = run("effdet-inspect", "trained_d0_256", cwd=shared)
    assert (done.returncode, done.stderr) == (0, "")
    check_golden(request, "converter/inspection_of_training.txt", done.stdout.rstrip("\n"))


def test_json_and_tensors(shared: Path, tmp_path: Path) -> None:
    trained = shared / "trained_d0_256"
    plain = json.loads(run_here("effdet-inspect", trained, "--json", cwd=tmp_path).stdout)
    assert (plain["variant"], plain["step"], plain["variants"], plain["problems"]) == ("d0", 780, ["d0"], [])
    listed = json.loads(run_here("effdet-inspect", trained, "--json", "--tensors", cwd=tmp_path).stdout)
    tensors = listed.pop("tensors")
    assert listed == plain
    assert tensors[0] == {"name": "box_net/box-0-bn-3/beta", "dtype": "float32", "shape": [64]}
    lines = run_here("effdet-inspect", trained / "model.ckpt-780", "--tensors", cwd=tmp_path).stdout.splitlines()
    rows = [line.split("\t") for line in lines if "\t" in line]
    assert rows == [[row["name"], row["dtype"], str(tuple(row["shape"]))] for row in tensors]
    assert len(rows) == 1912
    assert list(tmp_path.iterdir()) == []


def test_an_index_alone_is_enough(shared: Path, tmp_path: Path) -> None:
    shutil.copy(shared / "trained_d0_256" / "model.ckpt-780.index", tmp_path / "model.index")
    done = run_here("effdet-inspect", "model.index", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "512 x 512 pixels" in done.stdout  # no config.yaml beside it
    assert "\nstep " not in done.stdout  # a value, which only the data file holds
    assert "raw and ema  differ in 700 of 709" in done.stdout  # by checksums
    (tmp_path / "config.yaml").write_text("image_size: [")
    done = run_here("effdet-inspect", ".", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "problem      config.yaml is not plain YAML" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("absent",), 1, "no such file"),
        (("notes.txt",), 1, "a file of unknown kind"),
        ((".",), 1, "a folder without a checkpoint"),
        ((), 2, "Missing argument 'SOURCE'"),
        (("absent", "--jsno"), 2, "No such option"),
    ],
)
def test_failures_are_one_message(tmp_path: Path, arguments: tuple[str, ...], code: int, words: str) -> None:
    (tmp_path / "notes.txt").write_text("to do")
    done = run_here("effdet-inspect", *arguments, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (code, "")
    assert words in done.stderr
    assert "Traceback" not in done.stderr
