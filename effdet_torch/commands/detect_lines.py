"""What `effdet-detect` tells while it works: a line for each image, a line or a bar for frames."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

from effdet_torch.errors import listed
from effdet_torch.terminal.bar import progress_bar
from effdet_torch.terminal.text import on_terminal, say
from effdet_torch.terminal.verbosity import tell

if TYPE_CHECKING:
    from effdet_torch.inference.files.detect_video import VideoRun
    from effdet_torch.inference.files.find import VideoSource
    from effdet_torch.inference.files.found import FileDetections
    from effdet_torch.inference.files.places import Places
    from effdet_torch.inference.predict import Predictor

MANY_IMAGES = 10  # fewer are done before anybody has read a bar


def tell_what_is_left_out(sources: Sequence[str], recursive: bool) -> None:
    """Tell which files of folders are not images."""
    from effdet_torch.inference.files.find import VIDEO_SUFFIXES, left_out

    if not (others := left_out(sources, recursive)):
        return
    counts = listed(f"{suffix or 'none'} {count}" for suffix, count in others.most_common())
    hint = "; name videos themselves" if VIDEO_SUFFIXES & others.keys() else ""
    tell(f"left out: files in folders whose suffix is not that of an image ({counts}){hint}", err=True)


def tell_about(predictor: Predictor) -> None:
    """Tell what a user has to know of a model before its detections."""
    from effdet_torch.file_format import assumptions_briefly, untrained

    metadata = predictor.engine.metadata
    if text := untrained(metadata):
        say(f"Warning: {text}", err=True)
    if assumed := assumptions_briefly(metadata):
        tell(f"assumed: {assumed}", err=True)
    if predictor.has_nms_inside and predictor.category_ids is not None:
        tell("the file makes its detections itself, and --classes chooses among them", err=True)


def reported_videos(
    run: Callable[..., VideoRun], rows: Sequence[tuple[VideoSource, Places]]
) -> Iterator[FileDetections]:
    """Detect in videos, one after another, until Ctrl-C ends one of them; print and pass on every result."""
    from effdet_torch.inference.files.found import FileDetections
    from effdet_torch.inference.files.video import VideoError

    for number, (video, place) in enumerate(rows, 1):
        frames = run(source=video, place=place)
        yield from reported(frames, partial(getattr, frames, "total"), video.name, is_video=True)
        if frames.summary:
            tell(frames.summary, err=True)
        if frames.is_interrupted:
            others = [name for (_, name, _), _ in rows[number:]]
            errors = [FileDetections(name, error=VideoError(f"{name} was not begun")) for name in others]
            yield from reported(errors, lambda: None)
            return


def reported(
    files: Iterable[FileDetections],
    total: Callable[[], int | None],
    description: str = "images",
    is_video: bool = False,
) -> Iterator[FileDetections]:
    """Print every result as it comes, and pass it on.

    On a terminal the lines themselves show the progress of images, and a bar stands for those of a video whose length
    is known.
    """
    terminal = on_terminal(sys.stdout)
    least = MANY_IMAGES if not terminal else 0 if is_video else sys.maxsize
    with progress_bar(description, least, rate=is_video) as progress:
        for done, file in enumerate(files, 1):
            count = total()
            if file.error is not None:
                say(f"Error: {file.summary}", err=True)
            elif not (is_video and terminal and progress is not None and count is not None):
                tell(file.summary)
            if progress is not None and count is not None:
                progress(min(done, count), count)
            yield file
