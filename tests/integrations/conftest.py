"""What the tests with other packages share: a trained model and its images, and a module that MMDetection imports."""

from __future__ import annotations

import shutil
import sys
import types
from pathlib import Path

import pytest

IMAGES = ("000000006818", "000000037777", "000000087038", "000000174482")
OBJECTS = "000000037777"  # has several


class NotCompiled(types.ModuleType):
    """Stands for mmcv's compiled module: any operation exists, and none can be called.

    MMDetection imports compiled operations that its light form does not have; a detector like this one uses none.
    """

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)

        def missing(*_: object, **__: object) -> None:
            raise RuntimeError(f"mmcv's {name} is not compiled here")

        return missing


sys.modules.setdefault("mmcv._ext", NotCompiled("mmcv._ext"))


@pytest.fixture(scope="session")
def converted(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The trained d0 of 256 pixels, converted."""
    from support.coco_samples import convert_trained

    return convert_trained(shared, tmp_path_factory.mktemp("model") / "d0.pth")


@pytest.fixture
def place(converted: Path, shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: d0.pth, photo.jpg, and photos/ with four images."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(converted, "d0.pth")
    Path("photos").mkdir()
    for name in IMAGES:
        shutil.copy(shared / "coco50" / "val2017" / f"{name}.jpg", "photos")
    shutil.copy(shared / "coco50" / "val2017" / f"{OBJECTS}.jpg", "photo.jpg")
    return tmp_path
