"""Small videos, written and read with OpenCV itself."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

cv2: Any = pytest.importorskip("cv2", reason="videos need OpenCV: pip install '.[video]'")
Pixels = NDArray[np.uint8]
RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def plain(color: Sequence[int], size: tuple[int, int] = (64, 48)) -> Pixels:
    """Return an image (height, width, 3), RGB, of one colour."""
    return np.full((size[1], size[0], 3), color, np.uint8)


def write_video(path: Path, frames: Iterable[Pixels], fps: float = 12.5, codec: str = "mp4v") -> Path:
    writer = None
    for frame in frames:
        if writer is None:
            size = frame.shape[1], frame.shape[0]
            writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter_fourcc(*codec), fps, size)
            assert writer.isOpened()
        writer.write(frame[:, :, ::-1].copy())
    assert writer is not None
    writer.release()
    return path


def read_video(path: Path) -> tuple[float, list[Pixels]]:
    """Return frames per second, and the frames in RGB; decoded here, not by the code that is tested."""
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    assert capture.isOpened()
    fps, frames = capture.get(cv2.CAP_PROP_FPS), list[Pixels]()
    while (row := capture.read())[0]:
        frames.append(row[1][:, :, ::-1])
    assert capture.get(cv2.CAP_PROP_FRAME_COUNT) == len(frames)
    return fps, frames


class FakeCapture:
    """What OpenCV's capture is asked for: a camera that gives some frames, in BGR, and then nothing.

    Args:
        frames: as OpenCV gives them.
        at: {number of a frame: called before it is given}.
        times_ms: of the frames.
        facts: other properties.
    """

    def __init__(
        self,
        frames: Sequence[Pixels],
        at: dict[int, Any] | None = None,
        times_ms: Sequence[float] = (),
        facts: dict[int, float] | None = None,
    ) -> None:
        self._frames, self._at, self._times, self._facts = frames, at or {}, times_ms, facts or {}
        self._given, self.is_released = -1, False

    def __call__(self, *_: Any) -> FakeCapture:
        return self

    def isOpened(self) -> bool:  # noqa: N802
        return True

    def get(self, number: int) -> float:
        if number == cv2.CAP_PROP_POS_MSEC and self._times:
            return self._times[self._given]
        return self._facts.get(number, 0.0)

    def set(self, *_: Any) -> bool:
        return True

    def grab(self) -> bool:
        self._given += 1
        self._at.get(self._given, lambda: None)()
        return self._given < len(self._frames)

    def retrieve(self) -> tuple[bool, Pixels]:
        return True, self._frames[self._given]

    def release(self) -> None:
        self.is_released = True
