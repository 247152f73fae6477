"""Detect objects in the frames of a video, a camera or a stream."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Collection, Iterator
from contextlib import nullcontext
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from effdet_torch.errors import NonFiniteOutputError
from effdet_torch.inference.files.find import VideoSource, video_id
from effdet_torch.inference.files.found import FileDetections, mask_entry, named
from effdet_torch.inference.files.pictures import save_pictures
from effdet_torch.inference.files.places import Places
from effdet_torch.inference.files.video import Video, VideoError
from effdet_torch.inference.files.video_writer import CODEC, USUAL_FPS, VideoWriter
from effdet_torch.inference.images import ImageError
from effdet_torch.inference.predict import Predictor
from effdet_torch.inference.results.detections import Detections
from effdet_torch.inference.results.visualize import draw_detections
from effdet_torch.terminal.interruption import Interruption

DIGITS = 3  # of a time in seconds


class VideoRun:
    """Detects objects in one video; iterate over it once.

    A first Ctrl-C ends it after the current frame: what is done is whole, the drawn video too. A second one acts at
    once.

    Args:
        predictor: the detector.
        source: the video.
        place: where the drawn video and crops go.
        batch_size: how many frames are in memory at once, and go through a GPU at once; of a live source one.
        every: take every n-th frame only.
        turn: rotate frames as the video's metadata say.
        others: files of the run that no crop may replace, see `RunFiles.resolved`.

    Attributes:
        total: how many frames there will be, as far as the file knows; None if it does not.
        is_interrupted: whether it was ended by Ctrl-C.
        summary: what was done, in a line; "" if nothing was.
    """

    def __init__(
        self,
        predictor: Predictor,
        source: VideoSource,
        place: Places,
        batch_size: int = 8,
        every: int = 1,
        turn: bool = True,
        others: Collection[Path] = (),
    ) -> None:
        self._others = others
        self._predictor, self._source, self._place = predictor, source, place
        self._batch_size, self._every, self._turn = batch_size, every, turn
        self._interruption = Interruption()
        self.total: int | None = None
        self.summary = ""

    @property
    def is_interrupted(self) -> bool:  # noqa: D102
        return self._interruption.wanted

    def __iter__(self) -> Iterator[FileDetections]:
        """Yield what was found in every frame; at last why the video could not be read, or not all of it.

        Raises:
            OutputError: The drawn video or a crop cannot be written.
        """
        try:
            with self._interruption.deferred(), Video(self._source, self._turn) as video:
                yield from self._frames(video)
                if problem := self._problem(video):
                    yield FileDetections(self._source.name, error=VideoError(problem))
        except VideoError as error:
            yield FileDetections(self._source.name, error=error)

    def _problem(self, video: Video) -> str | None:
        """Return why not all of a video was done."""
        if not self.is_interrupted:
            return video.problem
        if video.is_live:  # which ends no other way
            return None
        return f"{self._source.name} was interrupted; what was found in its first {_of(video)} frames is kept"

    def _frames(self, video: Video) -> Iterator[FileDetections]:
        """Yield what was found in every frame."""
        self.total = None if video.frame_count is None else -(-video.frame_count // self._every)
        rate, drawn = (video.fps or USUAL_FPS) / self._every, self._place.drawing
        start, pending, count, drift = time.monotonic(), deque[tuple[int, float]](), 0, 0.0
        with nullcontext() if drawn is None else VideoWriter(drawn, rate, keeps_pace=video.is_live) as writer:
            for result in self._results(video, pending):
                if isinstance(result, ImageError):  # frames are pixels already
                    raise result
                (number, seconds), (pixels, found) = pending.popleft(), result
                if writer is not None:
                    writer.add(np.asarray(draw_detections(pixels, found)), seconds)
                save_pictures(pixels, found, self._place.of_frame(number), self._others)
                count, drift = count + 1, max(drift, abs(seconds - number / (video.fps or USUAL_FPS)))
                yield self._found(number, seconds, found)
        elapsed = max(time.monotonic() - start, 1e-9)
        self.summary = f"{self._source.name}: {count} frames in {elapsed:.1f} s, {count / elapsed:.1f} frames/s"
        if video.frame_count not in (None, video.read) and not self.is_interrupted:
            self.summary += f"; it announces {video.frame_count} frames, and {video.read} can be read"
        if writer is not None and count:
            self.summary += f"; {drawn}: {CODEC}, {rate:g} frames/s"
            self.summary += _timing(video, drift)

    def _results(
        self, video: Video, pending: deque[tuple[int, float]]
    ) -> Iterator[tuple[NDArray[np.uint8], Detections] | ImageError]:
        try:
            yield from self._predictor.stream_batches(self._batches(video, pending))
        except NonFiniteOutputError as error:
            raise error.at(error.place, f"{self._source.name}#{pending[error.place][0]}") from error

    def _batches(
        self, video: Video, pending: deque[tuple[int, float]]
    ) -> Iterator[list[NDArray[np.uint8] | ImageError]]:
        """Yield the pixels of frames, whose numbers and times go into `pending`."""
        size = 1 if video.is_live or self._predictor.device_type == "cpu" else min(self._batch_size, sys.maxsize)
        frames = video.frames(self._every)
        while not self.is_interrupted and (batch := list(islice(frames, size))):
            pending.extend((frame.number, frame.time) for frame in batch)
            yield [frame.pixels for frame in batch]

    def _found(self, number: int, seconds: float, found: Detections) -> FileDetections:
        name = f"{video_id(self._source)}#{number}"
        place = {"frame": number, "time": round(seconds, DIGITS)}
        return FileDetections(
            f"{self._source.name}#{number}",
            named(found.to_coco(name), found.names),
            mask=mask_entry(name, found, None),
            detects=self._predictor.config.detects,
            place=place,
        )


def _of(video: Video) -> str:
    return str(video.read) if video.frame_count is None else f"{video.read} of {video.frame_count}"


def _timing(video: Video, drift: float) -> str:
    """Return what a drawn video with a constant frame rate does to the times of its frames, if anything."""
    if video.is_live:
        return ", as long as it took"
    if video.fps is None:
        reason = "none" if video.stated_fps is None else f"{video.stated_fps:g}, too many to be a frame rate"
        return f" (assumed: the video states {reason})"
    if drift > 1.5 / video.fps:
        return f" throughout; those of the original vary, so times differ by up to {drift:.2f} s"
    return ""
