"""A look at a data set before a training: every image is decoded, some are drawn with their boxes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from effdet_torch.data.dataset import DataImage, DataSet
from effdet_torch.data.rules import Note
from effdet_torch.data.training.statistics import Statistics, describe
from effdet_torch.errors import EvaluationError, listed
from effdet_torch.inference.images import ImageError, read_images
from effdet_torch.outputs.atomic import replacing
from effdet_torch.terminal.bar import Progress
from effdet_torch.train.monitor.samples import annotated_png

BATCH = 8  # images that are read at once


class CheckedData(NamedTuple):
    """What was found.

    Attributes:
        train: the training images in numbers.
        val: the images for validation in numbers.
        notes: what was repaired, dropped and assumed about both.
        remarks: what else should be known.
    """

    train: Statistics
    val: Statistics
    notes: tuple[Note, ...]
    remarks: tuple[str, ...] = ()


def check_data(
    train: DataSet,
    val: DataSet,
    notes: tuple[Note, ...],
    picture: Path,
    workers: int = 0,
    progress: Progress | None = None,
) -> CheckedData:
    """Decode all images, count what they hold, and draw some of them.

    Args:
        train: the training images; category ids are labels.
        val: the images for validation.
        notes: what is known of both.
        picture: the PNG that is written: 16 training images with their boxes and classes.
        workers: processes that decode.
        progress: called with (done, total) images.

    Raises:
        EvaluationError: Images cannot be decoded; names the first ones.
        OutputError: The picture cannot be written.
    """
    images = {image.source: image for data in (train, val) for image in data.images}
    _decode(list(images.values()), workers, progress)
    with replacing(picture) as stream:
        stream.write(annotated_png(train))
    return CheckedData(describe(train), describe(val), notes)


def _decode(images: Sequence[DataImage], workers: int, progress: Progress | None) -> None:
    damaged, done = list[ImageError](), 0
    for batch in read_images([image.source for image in images], BATCH, workers=workers):
        damaged += (pixels for pixels in batch if isinstance(pixels, ImageError))
        done += len(batch)
        if progress is not None:
            progress(done, len(images))
    if damaged:
        raise EvaluationError(
            f"{len(damaged)} of {len(images)} images cannot be decoded: {listed(damaged, separator=' ')} Replace "
            "them, or remove them from the data set"
        )
