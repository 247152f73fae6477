"""Frames of videos, cameras and streams, read with OpenCV.

OpenCV, because one package without system libraries reads files, streams and cameras, and writes videos. TorchCodec
needs FFmpeg's libraries from the system and has no cameras; torchvision has dropped its video reader.

What happens to frames:

    rotation in the metadata    the frame is turned as in a player, unless told not to, as with EXIF
    variable frame rate         every frame is taken once, with its own time
    grey, alpha, YUV, 10 bit    converted to 8-bit RGB by FFmpeg; alpha is dropped
    sound, subtitles            left out

A file is opened with a list of containers that hold frames themselves: one that names other files or addresses instead
(a playlist, FFmpeg's `concat` script) is refused, whatever its suffix.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from effdet_torch.errors import EffdetError, UsageError, install_command
from effdet_torch.inference.files.find import VideoSource
from effdet_torch.untrusted.files import MAX_RECORDS_BYTES, reason_of, require_regular

CONTAINERS = "mov,matroska,avi,mpeg,mpegts,mpegvideo,flv,asf,ogg,h264,hevc,ivf"  # FFmpeg's names
OPTIONS = "OPENCV_FFMPEG_CAPTURE_OPTIONS"  # the variable of the environment that OpenCV reads
FILES_ONLY = f"protocol_whitelist;file|format_whitelist;{CONTAINERS}"
MOST_FPS = 1000.0  # some containers state the ticks of their clock instead
SHORTFALL = 0.02  # of the length that a file announces, which need not end with a frame


class VideoError(EffdetError):
    """A video, camera or stream cannot be read, or only in part."""


class Frame(NamedTuple):
    """One frame of a video.

    Attributes:
        number: from 0; frames that are left out count.
        time: in seconds, as the file states it; of a live source since its first frame.
        pixels: (height, width, 3), RGB, 0..255.
    """

    number: int
    time: float
    pixels: NDArray[np.uint8]


class Video:
    """An open video; use it as a context.

    Args:
        source: what to open.
        turn: rotate frames as the metadata say.

    Attributes:
        frame_count: as the file states it; None if it does not, as all live sources.
        stated_fps: frames per second, as the file states them; None if it does not.
        fps: the same; None if it is too high to be a frame rate.
        is_live: whether it is a camera or a stream, which ends when the user wants.
        read: frames that were read so far, with those that were left out.

    Raises:
        UsageError: OpenCV is not installed.
        VideoError: The source cannot be opened.
    """

    def __init__(self, source: VideoSource, turn: bool = True) -> None:
        self._source, self._every = source, 1
        self.read, self._last = 0, 0.0
        self._capture = _opened(source)
        cv2 = opencv()
        if not turn:
            self._capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, 0)
        count, fps = (self._capture.get(number) for number in (cv2.CAP_PROP_FRAME_COUNT, cv2.CAP_PROP_FPS))
        self.frame_count = int(count) if count >= 1 else None
        self.stated_fps = float(fps) if fps > 0 else None
        self.fps = self.stated_fps if fps <= MOST_FPS else None
        self.is_live = source.path is None and self.frame_count is None

    def __enter__(self) -> Video:
        return self

    def __exit__(self, *_: object) -> None:
        self._capture.release()

    def frames(self, every: int = 1) -> Iterator[Frame]:
        """Yield the frames number 0, `every`, 2 * `every`, ... until the source ends or cannot be read any further."""
        cv2, start = opencv(), None
        self._every = every
        to_rgb = {1: cv2.COLOR_GRAY2RGB, 3: cv2.COLOR_BGR2RGB, 4: cv2.COLOR_BGRA2RGB}
        while self._capture.grab():
            number, self.read = self.read, self.read + 1
            if number % every:
                continue
            is_decoded, pixels = self._capture.retrieve()
            if not is_decoded:
                self.read -= 1
                return
            start = time.monotonic() if start is None else start
            self._last = time.monotonic() - start if self.is_live else self._time(number)
            yield Frame(number, self._last, cv2.cvtColor(pixels, to_rgb[1 if pixels.ndim == 2 else pixels.shape[2]]))

    def _time(self, number: int) -> float:
        stated = float(self._capture.get(opencv().CAP_PROP_POS_MSEC)) / 1000
        return stated if stated > 0 or self.fps is None else number / self.fps

    @property
    def problem(self) -> str | None:
        """Why what was read is not the whole video, after its last frame; None if it is."""
        name, count = self._source.name, self.frame_count
        if self.is_live:
            return f"{name} ended or cannot be read any further; frames so far: {self.read}"
        if self.read == 0:
            reason = "it may be damaged. Copy or download it again"
            if self._source.path is None:
                reason = (
                    "its server may not support seeking (range requests), which a video with its index at the end "
                    "needs, or it is damaged. Download it, and pass the file"
                )
            return f"{name} holds no frame that can be decoded; {reason}"
        # Not the count alone: a container without one, such as MKV, announces what a constant rate would make.
        if count is None or self.stated_fps is None or count - self.read < 2:
            return None
        # Where a container states ticks, it announces ticks as well: its length is right, but a tick is not a frame.
        frame = max(1 / self.stated_fps, self._last / max(self.read - 1, 1))
        length, reached = count / self.stated_fps, self._last + self._every * frame
        if length - reached <= max(2 * frame, SHORTFALL * length):
            return None
        return (
            f"{name} seems to be truncated or damaged: {self.read} frames can be read, {reached:.2f} s, of {count} "
            f"announced, {length:.2f} s. Copy or download it again"
        )


def opencv() -> Any:
    """Return OpenCV, which is loaded for videos only.

    Raises:
        UsageError: It is not installed.
    """
    try:
        import cv2
    except ImportError as error:
        raise UsageError(f"videos, cameras and streams need OpenCV ({error}): {install_command('video')}") from error
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # what fails is said by us; FFmpeg speaks itself
    return cv2


def _opened(source: VideoSource) -> Any:
    """Return an open capture of OpenCV."""
    cv2 = opencv()
    if source.path is not None:
        try:
            require_regular(source.path, MAX_RECORDS_BYTES)
        except OSError as error:
            raise VideoError(f"cannot read the video {source.name}: {reason_of(error)}") from error
        # An absolute path is no pattern of image files, no address and no option, whatever its name is.
        path = _require_utf8(os.path.abspath(source.path), source.name)  # noqa: PTH100
        with _environment(OPTIONS, FILES_ONLY):
            capture = cv2.VideoCapture(path, cv2.CAP_FFMPEG)
        problem = (
            f"{source.name} is not a video, or is damaged, or its format is not supported; expected MP4, MKV, AVI or "
            "another that FFmpeg reads"
        )
    elif isinstance(source.address, int):
        capture = cv2.VideoCapture(source.address)
        capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)  # or else slow networks would see the past
        problem = (
            f"{source.name} cannot be opened; check that it is connected, that no other program uses it, and that this "
            "user may (on Linux: the group video)"
        )
    else:
        capture = cv2.VideoCapture(_require_utf8(source.address, source.name), cv2.CAP_FFMPEG)
        problem = f"the stream {source.name} cannot be opened; check the address, and that the server answers"
    if not capture.isOpened():
        capture.release()
        raise VideoError(problem)
    return capture


def is_utf8(name: str) -> bool:
    """Return whether OpenCV can take a name: it needs UTF-8."""
    return not any("\ud800" <= character <= "\udfff" for character in name)


def _require_utf8(address: str, name: str) -> str:
    if not is_utf8(address):
        raise VideoError(f"{name} cannot be opened: its path is not valid UTF-8, which OpenCV needs; rename it")
    return address


@contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
