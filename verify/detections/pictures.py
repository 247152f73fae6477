"""Draw what a model found beside the truth."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from io import BytesIO

import numpy as np
from PIL import Image

from effdet_torch.data.dataset import DataImage, DataSet
from effdet_torch.inference.images import ImageError, read_image
from effdet_torch.inference.results.visualize import Color, draw_boxes
from verify.results.details import Picture, ShownBox, ShownImage, Side

MAX_SIDE_PX = 640  # of a drawn image: a report holds many
MIN_SIDE_PX = 320  # of the longer side: texts would hide a smaller image
ENDLESS_PX = 1e6  # further than any image goes
QUALITY = 80
GREEN, ORANGE, RED, GREY = (40, 170, 75), (245, 150, 20), (225, 35, 45), (150, 150, 150)
# What became of a box -> its colour; those that come first lie on top.
OUTCOMES: Mapping[str, Color] = {
    "missed": RED,
    "false": RED,
    "wrong class": ORANGE,
    "right": GREEN,
    "not counted": GREY,
}


def with_pictures(shown: Sequence[ShownImage], split: DataSet, captions: Mapping[Side, str]) -> tuple[ShownImage, ...]:
    """Return images with a picture of every side that has a caption; why, if one cannot be drawn."""
    images = {image.image_id: image for image in split.images}
    return tuple(replace(each, pictures=_pictures(each, images[each.image_id], captions)) for each in shown)


def _pictures(shown: ShownImage, image: DataImage, captions: Mapping[Side, str]) -> tuple[Picture, ...]:
    try:
        pixels = Image.fromarray(read_image(image.source, apply_exif=image.turned))
    except ImageError as error:  # it could be read before: the evaluation is worth more than its picture
        return (Picture(f"not drawn: {error}", b""),)
    longer = max(pixels.size)
    scale = min(max(longer, MIN_SIDE_PX), MAX_SIDE_PX) / longer
    if scale != 1:
        width, height = (max(1, round(side * scale)) for side in pixels.size)
        pixels = pixels.resize((width, height), Image.Resampling.LANCZOS)
    boxes = {side: [box for box in shown.boxes if box.side == side] for side in captions}
    return tuple(
        Picture(f"{caption}: {_counts(boxes[side])}", _drawn(pixels, boxes[side], scale))
        for side, caption in captions.items()
    )


def _counts(boxes: Sequence[ShownBox]) -> str:
    """Return "3 right, 1 missed"."""
    counts = Counter(box.outcome for box in boxes)
    return ", ".join(f"{counts[outcome]} {outcome}" for outcome in OUTCOMES if counts[outcome]) or "nothing"


def _drawn(image: Image.Image, boxes: Sequence[ShownBox], scale: float) -> bytes:
    """Return a JPEG file of an image with boxes, which are in pixels of the image before it was scaled."""
    boxes = sorted(boxes, key=lambda box: list(OUTCOMES).index(box.outcome))
    boxes_xywh = np.clip(np.array([box.bbox for box in boxes]).reshape(-1, 4) * scale, -ENDLESS_PX, ENDLESS_PX)
    boxes_xyxy = np.concatenate((boxes_xywh[:, :2], boxes_xywh[:, :2] + boxes_xywh[:, 2:]), axis=1)
    colors = [OUTCOMES[box.outcome] for box in boxes]
    picture = draw_boxes(np.asarray(image), boxes_xyxy.tolist(), list(map(_text, boxes)), colors)
    stream = BytesIO()
    picture.save(stream, "JPEG", quality=QUALITY, subsampling=0)  # thin lines would lose their colour
    return stream.getvalue()


def _text(box: ShownBox) -> str:
    """Return "cat", "cat: missed", "cat: found as dog", "dog 0.83", "dog 0.83: is cat"."""
    said = "" if box.outcome == "right" else box.outcome
    if box.counterpart:
        said = f"{'found as' if box.side == 'truth' else 'is'} {box.counterpart}"
    name = box.name if box.score is None else f"{box.name} {box.score:.2f}"
    return f"{name}: {said}" if said else name
