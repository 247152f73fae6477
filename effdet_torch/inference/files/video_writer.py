"""Annotated videos, written with OpenCV: MPEG-4 part 2 (`mp4v`) in MP4, without sound.

OpenCV's packages bring no encoder of H.264, which is licensed. Players show `mp4v`, browsers do not:
`ffmpeg -i drawn/clip.mp4 -c:v libx264 web.mp4` turns it into one that they show.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from effdet_torch.errors import OutputError
from effdet_torch.inference.files.video import is_utf8, opencv
from effdet_torch.outputs.atomic import replacing_by_name

CODEC = "mp4v"
USUAL_FPS = 25.0  # of a source that states none


class VideoWriter:
    """Writes a video completely, and moves it into its place at the end of the block; nothing stays of a failed block.

    Args:
        path: of the video.
        fps: frames per second.
        keeps_pace: write frames as often as it takes for the video to be as long as the time of the frames: those of a
            camera come when they come.

    Attributes:
        written: frames in the video.

    Raises:
        OutputError: The video cannot be written, or frames differ in size.
    """

    def __init__(self, path: Path, fps: float, keeps_pace: bool = False) -> None:
        self._path, self._fps, self._keeps_pace = path, fps, keeps_pace
        self._writer: Any = None
        self._stack, self._temporary = ExitStack(), path
        self._size, self.written = (0, 0), 0

    def add(self, picture: NDArray[np.uint8], seconds: float) -> None:
        """Add a frame.

        Args:
            picture: (height, width, 3), RGB, 0..255; an odd height or width gets one more row or column.
            seconds: since the first frame.
        """
        cv2 = opencv()
        height, width = picture.shape[:2]
        if self._writer is None:
            self._begin(width, height)
        if (width, height) != self._size:
            raise OutputError(
                f"{self._path} cannot be written: the frames change their size from {self._size[0]} x {self._size[1]} "
                f"to {width} x {height}; leave out --out"
            )
        even = np.pad(picture, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        frame = cv2.cvtColor(even, cv2.COLOR_RGB2BGR)
        missing = round(seconds * self._fps) + 1 - self.written if self._keeps_pace else 1
        for _ in range(missing):
            self._writer.write(frame)
            self.written += 1

    def _begin(self, width: int, height: int) -> None:
        cv2 = opencv()
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"{self._path} cannot be written: {error.strerror}; choose another folder") from error
        if not is_utf8(os.path.realpath(self._path)):
            raise OutputError(
                f"{self._path} cannot be written: its path is not valid UTF-8, which OpenCV needs; rename it"
            )
        self._temporary = self._stack.enter_context(replacing_by_name(self._path))
        self._size, even = (width, height), (width + width % 2, height + height % 2)
        code = cv2.VideoWriter_fourcc(*CODEC)
        self._writer = cv2.VideoWriter(str(self._temporary), cv2.CAP_FFMPEG, code, self._fps, even)
        if not self._writer.isOpened():
            raise OutputError(
                f"{self._path} cannot be written: OpenCV has no encoder for {CODEC}, or not for {even[0]} x {even[1]} "
                f"pixels at {self._fps:g} frames/s; leave out --out"
            )

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(self, _: object, error: BaseException | None, *__: object) -> None:
        if self._writer is not None:
            self._writer.release()
        with self._stack:
            if error is not None:
                raise error  # here, so that the temporary file is removed
            if self._writer is not None:
                self._require_all()

    def _require_all(self) -> None:
        """Refuse a video that lacks frames: OpenCV does not tell of a disk that is full."""
        cv2 = opencv()
        capture = cv2.VideoCapture(str(self._temporary), cv2.CAP_FFMPEG)
        found = int(capture.get(cv2.CAP_PROP_FRAME_COUNT)) if capture.isOpened() else 0
        capture.release()
        if found != self.written:
            raise OutputError(
                f"{self._path} cannot be written: {found} of {self.written} frames arrived in the file; the disk may "
                "be full. Nothing was changed"
            )
