"""`effdet-inspect` as its users run it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import support.tiny_bundle as tiny
from support.commands import run


@pytest.fixture(scope="module")
def trained(shared: Path) -> Path:
    return shared / "trained_d0_256"


def test_says_what_a_training_checkpoint_is(trained: Path, tmp_path: Path) -> None:
    done = run("effdet-inspect", trained, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    text = done.stdout
    assert f"source       TF1 checkpoint {trained}\n" in text
    assert "model.ckpt-780.index (0.1 MB), model.ckpt-780.data-00000-of-00001 (46.9 MB)" in text
    assert "variables    1912 (1911 float32, 1 int64)\n" in text
    assert "network      efficientnet-b0, BiFPN 3 x 64 channels, weighted fusion, heads x 3, levels 3-7\n" in text
    assert "variants     d0\n" in text
    assert "d0, 90 classes, 9 anchors per location, 256 x 256 pixels" in text
    assert "raw          complete\nema          complete\n" in text
    assert "of 709\n" in text
    assert "step         780\n" in text
    assert "ignored      493 x optimizer slot: momentum\n" in text
    assert "problem" not in text
    assert list(tmp_path.iterdir()) == []


def test_says_it_to_machines(trained: Path, tmp_path: Path) -> None:
    plain = json.loads(run("effdet-inspect", trained, "--json", cwd=tmp_path).stdout)
    assert (plain["variant"], plain["step"], plain["variants"], plain["problems"]) == ("d0", 780, ["d0"], [])
    assert plain["views"]["ema"] == {"variables": 709, "of": 709, "untrained": False}
    assert 0 < plain["differing_variables"] <= 709
    assert "tensors" not in plain
    listed = json.loads(run("effdet-inspect", trained, "--json", "--tensors", cwd=tmp_path).stdout)
    assert listed.pop("tensors")[0] == {"name": "box_net/box-0-bn-3/beta", "dtype": "float32", "shape": [64]}
    assert listed == plain


def test_lists_tensors_in_the_order_of_their_names(trained: Path, tmp_path: Path) -> None:
    done = run("effdet-inspect", trained / "model.ckpt-780", "--tensors", cwd=tmp_path)
    rows = [line.split("\t") for line in done.stdout.splitlines() if "\t" in line]
    assert len(rows) == 1912
    assert [row[0] for row in rows] == sorted(row[0] for row in rows)
    assert ["global_step", "int64", "()"] in rows
    assert ["class_net/class-predict/bias", "float32", "(810,)"] in rows


def test_an_index_alone_is_enough(trained: Path, tmp_path: Path) -> None:
    shutil.copy(trained / "model.ckpt-780.index", tmp_path / "model.index")
    done = run("effdet-inspect", "model.index", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "variants     d0\n" in done.stdout
    assert "512 x 512 pixels" in done.stdout  # no config.yaml beside it
    assert "step         none\n" in done.stdout  # a value, not a shape: in the data file
    # The index has a checksum of every variable, which tells whether the copies differ.
    (line,) = [line for line in run("effdet-inspect", trained, cwd=tmp_path).stdout.splitlines() if "differ in" in line]
    assert line in done.stdout


def test_a_config_that_does_not_fit_is_a_problem_not_the_end(trained: Path, tmp_path: Path) -> None:
    shutil.copy(trained / "model.ckpt-780.index", tmp_path / "model.index")
    (tmp_path / "config.yaml").write_text("image_size: [")
    done = run("effdet-inspect", ".", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "is not plain YAML" in done.stdout


def test_another_network_is_described_too(tmp_path: Path) -> None:
    tiny.write_bundle(tmp_path / "model", {"resnet/kernel": np.zeros((1, 2), np.float32)})
    done = run("effdet-inspect", "model", cwd=tmp_path)
    assert done.returncode == 0
    assert "which is not supported" in done.stdout


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
    done = run("effdet-inspect", *arguments, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (code, "")
    assert words in done.stderr
    assert "Traceback" not in done.stderr
