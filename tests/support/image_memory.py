"""Count the images that are in memory at the same time."""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from effdet_torch.inference import images


class ImageMemory:
    """Counts what `read_image` returns for as long as anything uses its memory; reading in this process only.

    Attributes:
        alive: numbers of the images that are in memory.
        counts: after every image that was read, how many there were.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.alive, self.counts, self._read = set[int](), list[int](), images.read_image
        monkeypatch.setattr(images, "read_image", self._counted)

    def _counted(self, path: str | Path, apply_exif: bool = False) -> NDArray[Any]:
        pixels: NDArray[np.uint8] = self._read(path, apply_exif)
        number = len(self.counts)
        self.alive.add(number)
        weakref.finalize(pixels, self.alive.discard, number)  # tensors and arrays made of it share its memory
        self.counts.append(len(self.alive))
        return pixels
