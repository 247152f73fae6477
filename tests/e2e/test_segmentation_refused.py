"""What cannot be done with a segmentation head is refused, by name."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from effdet_torch import save_model
from effdet_torch.network.model import EfficientDet
from support.commands import run
from support.sources import small_config


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("refused")
    save_model(EfficientDet(small_config(heads=("segmentation",), image_size=(64, 64))), path / "seg.pth")
    return path


COMMANDS = {
    "training": (
        ["effdet-train", "{data}", "--from", "seg.pth", "-o", "run"],
        "segmentation head, which cannot be trained",
    ),
    "evaluation": (
        ["effdet-verify", "seg.pth", "--coco", "{data}"],
        "only a segmentation head, and --coco evaluates boxes",
    ),
}


@pytest.mark.parametrize("what", COMMANDS)
def test_it_is_refused_by_name(what: str, folder: Path, shared: Path) -> None:
    words, text = COMMANDS[what]
    before = sorted(folder.iterdir())
    done = run(words[0], *(word.format(data=shared / "coco50") for word in words[1:]), cwd=folder)
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    assert re.search(text, line)
    assert sorted(folder.iterdir()) == before
