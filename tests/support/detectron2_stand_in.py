"""A stand-in for `detectron2.structures`, by its documentation: Detectron2 itself is on no package index.

Only what a model's outputs and targets need. What the real classes refuse, these refuse as well.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor


class Boxes:
    """(N, 4) float32 as (xmin, ymin, xmax, ymax) in absolute pixels."""

    def __init__(self, tensor: Tensor) -> None:
        assert tensor.ndim == 2
        assert tensor.shape[1] == 4
        self.tensor = tensor.to(torch.float32)

    def __len__(self) -> int:
        return len(self.tensor)

    def nonempty(self) -> Tensor:
        return (self.tensor[:, 2:] > self.tensor[:, :2]).all(dim=1)


class Instances:
    """What is known of the objects in an image of a size (height, width): fields of equal length."""

    def __init__(self, image_size: tuple[int, int], **fields: Any) -> None:
        height, width = image_size
        assert (type(height), type(width)) == (int, int)
        lengths = {len(value) for value in fields.values()}
        assert len(lengths) <= 1, "fields of different lengths"
        self.image_size, self._fields = image_size, fields

    def __getattr__(self, name: str) -> Any:
        if name == "_fields" or name not in self._fields:
            raise AttributeError(f"Cannot find field '{name}' in the given Instances!")
        return self._fields[name]

    def __len__(self) -> int:
        return len(next(iter(self._fields.values())))

    def get_fields(self) -> dict[str, Any]:
        return self._fields


def install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `import detectron2.structures` find the stand-in."""
    package, structures = ModuleType("detectron2"), ModuleType("detectron2.structures")
    structures.Boxes, structures.Instances = Boxes, Instances  # type: ignore[attr-defined]
    package.structures = structures  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "detectron2", package)
    monkeypatch.setitem(sys.modules, "detectron2.structures", structures)
