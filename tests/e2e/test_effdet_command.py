"""`effdet VERB`: the same commands under one name, and `effdet doctor`."""

from __future__ import annotations

import json
import re
from importlib.metadata import requires, version
from pathlib import Path

import click
import pytest

import cli
from effdet_torch import save_model
from effdet_torch.commands import doctor
from support.coco_samples import small_model, write_coco
from support.commands import run, run_here

FIXED = ("convert", "inspect", "verify", "detect", "export", "train")


def test_the_verbs_are_the_fixed_commands() -> None:
    assert list(cli.effdet.commands) == [*FIXED[:4], "evaluate", *FIXED[4:], "doctor"]
    assert all(cli.effdet.commands[name] is getattr(cli, name) for name in FIXED)


def test_help_lists_the_verbs_in_whole_sentences(tmp_path: Path) -> None:
    done = run("effdet", "--help", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    listed = re.findall(r"^  (\w+)  +(.*)$", done.stdout.partition("Commands:\n")[2], re.MULTILINE)
    assert [name for name, _ in listed] == list(cli.effdet.commands)
    assert all(text.endswith(".") and not text.endswith("...") for _, text in listed)


@pytest.mark.parametrize(
    ("words", "expected"), [(("convret",), "convret"), ((), "Usage: effdet"), (("convert",), "SOURCE")]
)
def test_wrong_usage(words: tuple[str, ...], expected: str, tmp_path: Path) -> None:
    done = run_here("effdet", *words, cwd=tmp_path)
    assert done.returncode == 2
    assert expected in done.stderr
    assert "Traceback" not in done.stderr


def test_an_error_is_one_line(tmp_path: Path) -> None:
    done = run("effdet", "inspect", "nothing", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == run("effdet-inspect", "nothing", cwd=tmp_path).stderr
    assert len(done.stderr.splitlines()) == 1


def test_evaluate_measures_what_verify_measures(tmp_path: Path) -> None:
    write_coco(tmp_path / "coco", split="val2017")
    save_model(small_model(), tmp_path / "model.pth")
    words = ("model.pth", "--coco", "coco", "--report-dir")
    results = []
    for verb, folder in (("evaluate", "one"), ("verify", "two")):
        done = run_here("effdet", verb, *words, folder, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        results.append(json.loads((tmp_path / folder / "report.json").read_text())["detection"]["metrics"])
    assert results[0] == results[1]
    done = run_here("effdet", "evaluate", "model.pth", cwd=tmp_path)  # negative control: layers are verify's
    assert done.returncode == 2
    assert "--coco ROOT" in done.stderr


def test_doctor_lists_every_package_of_the_project(tmp_path: Path) -> None:
    done = run("effdet", "doctor", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"torch {version('torch')}" in done.stdout
    assert f"tensorflow {version('tensorflow')}" in done.stdout
    extras = {extra for text in requires("effdet-convert") or () for extra in re.findall(r'extra == "([\w-]+)"', text)}
    assert extras - {"bench", "dev", "docs"} == set(doctor.EXTRAS)  # those are for developers
    assert "devices         cpu (" in done.stdout


def test_doctor_finds_what_is_missing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    needed = ["numpy>=999", "no-such-package>=1", 'also-missing; extra == "onnx"', 'torch<1; extra == "openvino"']
    monkeypatch.setattr("importlib.metadata.requires", lambda _: needed)
    with pytest.raises(SystemExit) as ended:
        doctor.doctor.main([], prog_name="doctor")
    assert ended.value.code == 1
    text, error = capsys.readouterr()
    assert f"numpy {version('numpy')} (expected >=999), no-such-package missing (expected >=1)" in text
    assert "also-missing missing (expected any version)" in text
    assert "pip install '.[onnx]'" in text
    assert "also-missing" not in error  # an extra that nobody asked for is no fault
    assert "torch" in error
    assert isinstance(doctor.doctor, click.Command)


def test_without_a_verb_there_is_help(tmp_path: Path) -> None:
    done, helped = run_here("effdet", cwd=tmp_path), run_here("effdet", "--help", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", helped.stdout)
    assert "Usage: effdet [OPTIONS] COMMAND [ARGS]...\n" in done.stderr
    done = run_here("effdet", "detekt", cwd=tmp_path)
    assert done.returncode == 2
    assert "No such command 'detekt'" in done.stderr
