"""docs/sources/tflite.md: its commands print what the page says."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest

from support.commands import run

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "sources" / "tflite.md").read_text(encoding="utf-8")
FILE = "lite0_tflite_fp16.tflite"


def sessions() -> dict[str, list[str]]:
    """Return {command of the page: the lines that it prints there}."""
    found = dict[str, list[str]]()
    for line in re.findall(r"^    (.*)$", PAGE, re.MULTILINE):
        if line.startswith("$ "):
            found[line[2:]] = lines = []
        else:
            lines.append(line)
    return found


@pytest.fixture
def folder(shared: Path, tmp_path: Path) -> Path:
    shutil.copy(shared / "reference" / "sources" / "tflite" / FILE, tmp_path)
    shutil.copy(shared / "reference" / "images" / "img1.jpg", tmp_path / "photo.jpg")
    return tmp_path


def check(command: str, folder: Path) -> str:
    name, *words = shlex.split(command)
    done = run(name, *words, cwd=folder)
    assert done.returncode == 0, done.stderr
    lines = sessions()[command]
    assert not lines or done.stdout.splitlines() == lines
    return done.stdout


def test_convert_and_detect(folder: Path) -> None:
    convert, detect, _ = sessions()
    assert sessions()[convert]
    check(convert, folder)
    assert "100 detections" in check(detect, folder)


@pytest.mark.slow
def test_verify(folder: Path) -> None:
    convert, _, verify = sessions()
    check(convert, folder)
    assert f"rests on TensorFlow's own graph ({FILE}), which ran" in check(verify, folder)
