"""docs/sources/effdet.md: its commands print what the page says."""

from __future__ import annotations

import re
import shlex
import warnings
from pathlib import Path
from types import ModuleType

import pytest
import torch

from effdet_torch.architecture.effdet_models import PACKAGE_MODELS, UNSUPPORTED_MODELS
from support.commands import run
from support.networks import alive

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "sources" / "effdet.md").read_text(encoding="utf-8")


def sessions() -> dict[str, list[str]]:
    """Return {command of the page: the lines that it prints there}; "..." stands for lines that are left out."""
    found = dict[str, list[str]]()
    for line in re.findall(r"^ {4,}(\S.*)$", PAGE, re.MULTILINE):
        if line.startswith("$ "):
            found[line[2:]] = lines = []
        else:
            lines.append(line)
    return found


@pytest.fixture(scope="module")
def folder(effdet: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    for name, file in (("efficientdet_q0", "efficientdet_q0-bdf1bdb5.pth"), ("efficientdet_d0", "mine.pth")):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            config = effdet.get_efficientdet_config(name)
            config.image_size = (128, 128)  # the tensors do not depend on it
            torch.save(alive(effdet.EfficientDet(config, pretrained_backbone=False)).state_dict(), folder / file)
    return folder


def test_the_commands_print_what_the_page_says(folder: Path) -> None:
    assert len(sessions()) == 4
    for command, lines in sessions().items():
        done = run(*shlex.split(command), cwd=folder)
        assert (done.returncode, done.stderr) == (0, ""), command
        printed = done.stdout.splitlines()
        assert [line for line in lines if line != "..." and line not in printed] == [], command
        assert ("..." in lines) or printed == lines, command


def test_the_page_names_every_model() -> None:
    for name in PACKAGE_MODELS:
        first, _, last = name.rpartition("_")
        assert f"`{name}`" in PAGE or f"`{first}_" in PAGE, name
        assert f"_{last}" in PAGE or last in ("d1", "d2", "q1"), name
    assert all(name in PAGE or name.startswith(("mixdet", "mobiledet", "csp")) for name in UNSUPPORTED_MODELS)
