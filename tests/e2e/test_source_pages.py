"""docs/sources: every command of a page that shows its output prints that.

A page whose sources need more than a row of `SOURCES` has a test of its own, `test_PAGE_page.py`.
"""

from __future__ import annotations

import re
import shutil
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType

import pytest

from support.hub import hub_folder, load_draw, write_module, write_training
from support.networks import alive
from support.segmentation import write_both, write_masks
from support.sessions import printed, sessions

PAGES = Path(__file__).resolve().parents[2] / "docs" / "sources"
Source = Callable[[Path, Path, ModuleType], object]  # (results beside the project, where to write, values)


def _index_of_d0(shared: Path, folder: Path, _: ModuleType) -> None:
    folder.mkdir()
    shutil.copy(shared / "reference" / "official_indexes" / "efficientdet-d0.index", folder / "model.index")


def _without_config(shared: Path, folder: Path, _: ModuleType) -> None:
    folder.mkdir()
    for path in (shared / "trained_d0_256").glob("model.ckpt-*"):
        (folder / path.name).symlink_to(path)


def _hub_training(shared: Path, folder: Path, seeded: ModuleType) -> None:
    hub = hub_folder(shared)
    write_training(hub, folder, load_draw(hub, seeded))


def _hub_module(shared: Path, folder: Path, seeded: ModuleType) -> None:
    hub = hub_folder(shared)
    write_module(hub, folder, load_draw(hub, seeded))


def _of_package(name: str) -> Source:
    """Return a source that writes the state_dict of a model of the effdet package."""

    def write(_: Path, file: Path, __: ModuleType) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import effdet
            import torch

            config = effdet.get_efficientdet_config(name)
            config.image_size = (128, 128)  # the tensors do not depend on it
            torch.save(alive(effdet.EfficientDet(config, pretrained_backbone=False)).state_dict(), file)

    return write


def _link(*parts: str) -> Source:
    return lambda shared, path, _: path.symlink_to(shared.joinpath(*parts))


# Name in the pages -> what it stands for.
SOURCES: Mapping[str, Source] = {
    "my_training": _link("trained_d0_256"),
    "without_config": _without_config,
    "efficientdet-d0": _index_of_d0,
    "hub_training": _hub_training,
    "lite0-feature-vector": _hub_module,
    "lite0_tflite_fp16.tflite": _link("reference", "sources", "tflite", "lite0_tflite_fp16.tflite"),
    "d1": _link("reference", "tfod", "d1"),
    "my_masks": write_masks,
    "my_both": write_both,
    "efficientdet_q0-bdf1bdb5.pth": _of_package("efficientdet_q0"),
    "my_effdet.pth": _of_package("efficientdet_d0"),
    "photo.jpg": _link("reference", "images", "img1.jpg"),
}


def is_printed(line: str, output: list[str]) -> bool:
    """Whether a line that a page shows is among those that were printed; "..." in it stands for anything."""
    pattern = re.escape(fixed(line)).replace(r"\.\.\.", ".*")
    return any(re.fullmatch(pattern, fixed(found)) for found in output)


def fixed(line: str) -> str:
    """Return a line without the time that it took, and without its indentation."""
    return re.sub(r"\d+\.\d s", "", line).strip()


def check(page: Path, folder: Path, verifies: bool = True) -> None:
    """Run a page's commands in their order, and look for the lines that it shows of an output."""
    for command, shown in sessions(page).items():
        if not shown or (command.startswith("effdet-verify") and not verifies):
            continue
        found = printed(command, folder)
        for line in shown:
            assert is_printed(line, found), f"{page.name}: {command} does not print\n{line}"


def needed(page: Path) -> set[str]:
    words = {word.partition("/")[0] for command in sessions(page) for word in command.split()}
    return words & SOURCES.keys()


@pytest.mark.parametrize("verifies", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("page", sorted(path.name for path in PAGES.glob("*.md")))
def test_what_a_page_shows_is_what_is_printed(
    page: str, verifies: bool, shared: Path, seeded: ModuleType, tmp_path: Path
) -> None:
    for name in needed(PAGES / page):
        SOURCES[name](shared, tmp_path / name, seeded)
    check(PAGES / page, tmp_path, verifies)


def test_another_output_is_noticed(shared: Path, seeded: ModuleType, tmp_path: Path) -> None:
    """Negative control."""
    SOURCES["efficientdet-d0"](shared, tmp_path / "efficientdet-d0", seeded)
    text = (PAGES / "official.md").read_text(encoding="utf-8")
    (tmp_path / "same.md").write_text(text, encoding="utf-8")
    check(tmp_path / "same.md", tmp_path)
    assert "3.88 M" in text
    (tmp_path / "other.md").write_text(text.replace("3.88 M", "3.89 M"), encoding="utf-8")
    with pytest.raises(AssertionError, match=r"other\.md: effdet-convert .* does not print"):
        check(tmp_path / "other.md", tmp_path)
