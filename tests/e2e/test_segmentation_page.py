"""docs/sources/segmentation.md: every command prints what the page shows."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from effdet_torch import Predictor
from support.commands import script
from support.segmentation import write_both, write_masks

PAGE = Path(__file__).resolve().parents[2] / "docs" / "sources" / "segmentation.md"


def sessions(text: str) -> dict[str, list[str]]:
    """Return {command: the lines that the page shows of its output}."""
    found = dict[str, list[str]]()
    for block in re.findall(r"(?:^    .*\n)+", text, re.MULTILINE):
        first, *lines = (line[4:] for line in block.splitlines())
        if first.startswith("$ "):
            found[first[2:]] = lines
    return found


def missing(text: str, folder: Path) -> list[str]:
    """Run the commands, and return the lines that they do not print."""
    lost = []
    for command, shown in sessions(text).items():
        name, *words = shlex.split(command)
        done = subprocess.run([script(name), *words], cwd=folder, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, f"{command}\n{done.stderr}"
        lost += [line for line in shown if line not in done.stdout.splitlines()]
    return lost


@pytest.fixture
def folder(shared: Path, seeded: ModuleType, tmp_path: Path) -> Path:
    write_masks(shared, tmp_path / "my_masks", seeded)
    write_both(shared, tmp_path / "my_both", seeded)
    shutil.copy(shared / "reference" / "images" / "img1.jpg", tmp_path / "photo.jpg")
    return tmp_path


@pytest.mark.slow
def test_the_page_is_true(folder: Path) -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert len(sessions(text)) == 6
    assert missing(text, folder) == []
    with Image.open(folder / "drawn" / "photo.jpg.mask.png") as mask:
        np.testing.assert_array_equal(np.asarray(mask), Predictor(folder / "masks.pth")(folder / "photo.jpg")[0].mask)
    changed = "    $ effdet-inspect my_both\n    model        d0, 4 classes\n"  # negative control
    assert missing(changed, folder) == ["model        d0, 4 classes"]
