"""docs/comparison.md: every command of the page prints what the page shows, with the packages that it compares."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from importlib.util import find_spec
from pathlib import Path

import pytest

from support.commands import script
from support.sessions import sessions

PAGE = Path(__file__).resolve().parents[2] / "docs" / "comparison.md"
GUESTS = ("effdet", "libreyolo", "keras_cv_attention_models", "tf_keras")

pytestmark = [pytest.mark.guest, pytest.mark.timeout(1200)]


def printed(command: str, folder: Path) -> list[str]:
    """Return what a command prints; some are there to fail."""
    name, *words = shlex.split(command)
    quiet = {"TF_USE_LEGACY_KERAS": "1", "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [script(name), *words], cwd=folder, env=os.environ | quiet, capture_output=True, text=True, check=False
    )
    return (done.stdout + done.stderr).splitlines()


def shows(line: str, output: list[str]) -> bool:
    """Whether a line was printed; "..." in it stands for anything."""
    pattern = re.escape(line).replace(r"\.\.\.", ".*")
    return any(re.fullmatch(pattern, found.strip()) for found in output)


def test_the_commands_print_what_the_page_shows(shared: Path, tmp_path: Path) -> None:
    absent = [name for name in GUESTS if find_spec(name) is None]
    if absent:
        pytest.skip(f"not installed: {', '.join(absent)} (make peers)")
    (tmp_path / "my_training").symlink_to(shared / "trained_d0_256")
    (tmp_path / "photo.jpg").symlink_to(shared / "coco50" / "val2017" / "000000017627.jpg")
    wrong = dict[str, list[str]]()
    for command, lines in sessions(PAGE).items():
        found = printed(command, tmp_path)
        assert not shows("a line that no command prints", found)  # negative control
        if not all(shows(line, found) for line in lines):
            wrong[command] = found[-8:]
    assert not wrong, "\n".join(f"{command}\n{lines}" for command, lines in wrong.items())
