"""A look at a data set before a training: every image is decoded, some are drawn with their boxes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from effdet_torch.atomic import replacing
from effdet_torch.data.dataset import DataImage, DataObject, DataSet
from effdet_torch.data.rules import Note
from effdet_torch.data.statistics import Statistics, describe, training_notes
from effdet_torch.errors import EvaluationError, listed
from effdet_torch.inference.images import ImageError, read_image, read_images
from effdet_torch.inference.visualize import class_color, draw_boxes
from effdet_torch.progress.bar import Progress

SHOWN = 16
COLUMNS = 4
CELL_PX = 400
BATCH = 8  # images that are read at once


class CheckedData(NamedTuple):
    """What was found.

    Attributes:
        train: the training images in numbers.
        val: the images for validation in numbers.
        notes: what was repaired, dropped and assumed about both.
    """

    train: Statistics
    val: Statistics
    notes: tuple[Note, ...]


def check_data(
    train: DataSet,
    val: DataSet,
    image_size: tuple[int, int],
    picture: Path,
    workers: int = 0,
    progress: Progress | None = None,
) -> CheckedData:
    """Decode all images, count what they hold, and draw some of them.

    Args:
        train: the training images; category ids are labels.
        val: the images for validation.
        image_size: (height, width) of the network's input, in pixels.
        picture: the PNG that is written: 16 training images with their boxes and classes.
        workers: processes that decode.
        progress: called with (done, total) images.

    Raises:
        EvaluationError: Images cannot be decoded; names the first ones.
        OutputError: The picture cannot be written.
    """
    images = {image.source: image for data in (train, val) for image in data.images}
    _decode(list(images.values()), workers, progress)
    sheet = contact_sheet(train)
    with replacing(picture) as stream:
        sheet.save(stream, "PNG")
    notes = (*train.notes, *(note for note in val.notes if note not in train.notes))
    return CheckedData(describe(train), describe(val), (*notes, *training_notes(train, image_size)))


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


def contact_sheet(data: DataSet) -> Image.Image:
    """Draw images with their boxes and classes, from all over the data set; with boxes as long as there are such.

    Returns:
        At most 16 images in rows of 4, each scaled into a square.
    """
    objects: dict[int, list[DataObject]] = {}
    for item in data.objects:
        objects.setdefault(item.image_id, []).append(item)
    images = [image for image in data.images if image.image_id in objects] or list(data.images)
    count = min(SHOWN, len(images))
    shown = [images[position * len(images) // count] for position in range(count)]
    columns, rows = min(COLUMNS, count), -(-count // COLUMNS)
    sheet = Image.new("RGB", (columns * CELL_PX, rows * CELL_PX), "white")
    for position, image in enumerate(shown):
        drawn = _drawn(image, objects.get(image.image_id, []), data)
        sheet.paste(drawn, (position % COLUMNS * CELL_PX, position // COLUMNS * CELL_PX))
    return sheet


def _drawn(image: DataImage, objects: Sequence[DataObject], data: DataSet) -> Image.Image:
    picture = Image.fromarray(read_image(image.source, apply_exif=image.turned))
    scale = CELL_PX / max(picture.size)
    width, height = (max(1, round(side * scale)) for side in picture.size)
    boxes = np.array([(x, y, x + w, y + h) for x, y, w, h in (item.bbox for item in objects)]).reshape(-1, 4) * scale
    names = [data.categories[item.category_id] or f"class {item.category_id}" for item in objects]
    texts = [f"{name} (crowd)" if item.is_crowd else name for name, item in zip(names, objects, strict=True)]
    colors = [class_color(item.category_id) for item in objects]
    return draw_boxes(np.asarray(picture.resize((width, height))), boxes.tolist(), texts, colors)
