"""docs/sources/object_detection_api.md: its commands print what the page shows."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest

from support.commands import run

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "sources" / "object_detection_api.md").read_text(
    encoding="utf-8"
)


def sessions() -> dict[str, list[str]]:
    """Return {command: the lines that the page shows}; "..." stands for others, also inside a line."""
    found = dict[str, list[str]]()
    for line in re.findall(r"^    (.*)$", PAGE, re.MULTILINE):
        if line.startswith("$ "):
            found[line[2:]] = lines = []
        elif line != "...":
            lines.append(line)
    return found


def is_printed(line: str, output: str) -> bool:
    pattern = re.escape(line).replace(r"\.\.\.", ".*")
    return re.search(f"^{pattern}$", output, re.MULTILINE) is not None


def test_the_page_is_true(shared: Path, tmp_path: Path) -> None:
    source = shared / "reference" / "tfod" / "d1"
    if not source.is_dir():
        pytest.skip("no checkpoints of the Object Detection API (../shared/reference/tfod)")
    (tmp_path / "d1").symlink_to(source)
    shutil.copy(shared / "reference" / "images" / "img1.jpg", tmp_path / "photo.jpg")
    shown = sessions()
    assert [command.split()[0] for command in shown] == [
        f"effdet-{name}" for name in ("inspect", "convert", "verify", "detect")
    ]
    for command, lines in shown.items():
        name, *words = shlex.split(command)
        done = run(name, *words, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert [line for line in lines if not is_printed(line, done.stdout)] == [], f"{command} prints\n{done.stdout}"
        assert not is_printed(f"{lines[0]} and more", done.stdout)  # negative control
