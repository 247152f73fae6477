"""Photos as network input, one after another, to measure the ranges of a network's tensors with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from effdet_torch.config import EfficientDetConfig
from effdet_torch.errors import UsageError
from effdet_torch.inference.files.find import find_sources
from effdet_torch.inference.images import to_rgb
from effdet_torch.processing.cpu import CpuProcessing


class CalibrationImages:
    """Photos, read and prepared as the network takes them whenever they are iterated over.

    Args:
        names: image files, folders and patterns, see `find_sources`.
        config: of the model.
        image_size: (height, width) of the network input; by default the model's.
        progress: called with (done, total) after every image.

    Raises:
        UsageError: There is no image, or one is a video.
    """

    def __init__(
        self,
        names: Sequence[str],
        config: EfficientDetConfig,
        image_size: tuple[int, int] | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        found = find_sources(names)
        if found.videos:
            raise UsageError(f"{found.videos[0].name} is a video; calibrate with photos")
        self.paths, self._progress = found.images, progress
        self._processing = CpuProcessing(replace(config, image_size=image_size or config.image_size))

    def __len__(self) -> int:
        return len(self.paths)

    def __contains__(self, item: Any) -> bool:
        return item in self.paths

    def __iter__(self) -> Iterator[NDArray[np.float32]]:
        """Yield (1, 3, H, W) for each photo, turned as its EXIF orientation says.

        Raises:
            ImageError: A photo cannot be read.
        """
        for number, path in enumerate(self.paths, start=1):
            yield self._processing.prepare([to_rgb(path)])[0]
            if self._progress is not None:
                self._progress(number, len(self.paths))
