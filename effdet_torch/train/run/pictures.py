"""Samples of a training: images as the network sees them, and what it finds beside the truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from effdet_torch.config import EfficientDetConfig
from effdet_torch.inference.results.visualize import class_color, draw_boxes
from effdet_torch.untrusted.text import printable

MOST = 16  # images in a picture
COLUMNS = 4
SIDE_PX = 400  # of an image in the picture, at most
CAPTION_PX = 20
LETTERS = 54  # of a caption; more do not fit
MOST_BOXES = 40  # of an image: more would hide it
Pixels = NDArray[np.uint8]


class Boxes(NamedTuple):
    """Boxes on an image.

    Attributes:
        boxes_xyxy: N boxes (xmin, ymin, xmax, ymax) in pixels of the image.
        labels: N class numbers, from 1.
        scores: N scores; None for annotations.
    """

    boxes_xyxy: Sequence[Sequence[float]]
    labels: Sequence[int]
    scores: Sequence[float] | None = None


class Sample(NamedTuple):
    """An image that is drawn.

    Attributes:
        image: (height, width, 3), RGB.
        caption: for people.
        boxes: on it.
    """

    image: Pixels
    caption: str
    boxes: Boxes


def visible(images: NDArray[np.float32], config: EfficientDetConfig) -> Pixels:
    """Return network inputs (B, 3, H, W) as images (B, H, W, 3), RGB; the inverse of the normalization."""
    pixels = images.transpose(0, 2, 3, 1)
    if config.normalization != "mean_std":
        pixels = (pixels + 1) * 127.5
    if config.normalization != "advprop":
        pixels = pixels * np.array(config.std_rgb, np.float32) + np.array(config.mean_rgb, np.float32)
    bytes_rgb: Pixels = np.clip(np.rint(pixels), 0, 255).astype(np.uint8)
    return bytes_rgb


def training_png(
    images: NDArray[np.float32],
    boxes: Sequence[Boxes],
    captions: Sequence[str],
    names: Mapping[int, str],
    config: EfficientDetConfig,
) -> bytes:
    """Return a PNG of the first `MOST` images of a batch, as the network sees them.

    Args:
        images: (B, 3, H, W), the network input.
        boxes: of each image, in pixels of the network input.
        captions: of each image.
        names: {label: class name}.
        config: supplies the normalization.
    """
    shown = zip(visible(images[:MOST], config), captions, boxes, strict=False)
    return grid_png([Sample(*parts) for parts in shown], names)


def validation_png(
    images: Sequence[Pixels],
    truth: Sequence[Boxes],
    found: Sequence[Boxes],
    captions: Sequence[str],
    names: Mapping[int, str],
) -> bytes:
    """Return a PNG of the first `MOST` images, each with its annotations on the left and the detections on the right.

    Args:
        images: (height, width, 3) each, RGB.
        truth: annotations, in pixels of the image.
        found: detections, likewise, with scores.
        captions: of each image.
        names: {label: class name}.
    """
    samples = list[Sample]()
    for image, *sides, caption in list(zip(images, truth, found, captions, strict=True))[:MOST]:
        for side, boxes in zip(("annotated", "found"), sides, strict=True):
            samples.append(Sample(image, f"{side}: {caption}", boxes))
    return grid_png(samples, names)


def grid_png(samples: Sequence[Sample], names: Mapping[int, str]) -> bytes:
    """Return a PNG of samples side by side, `COLUMNS` in a row.

    Raises:
        ValueError: There are none.
    """
    if not samples:
        raise ValueError("there are no samples to draw; expected at least one")
    drawn = [_drawn(sample, names) for sample in samples]
    width, height = (max(sizes) for sizes in zip(*(picture.size for picture in drawn), strict=True))
    columns, rows = min(COLUMNS, len(drawn)), -(-len(drawn) // COLUMNS)
    picture = Image.new("RGB", (columns * width, rows * (height + CAPTION_PX)), "white")
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(CAPTION_PX * 0.6)
    for number, (sample, part) in enumerate(zip(samples, drawn, strict=True)):
        x, y = number % COLUMNS * width, number // COLUMNS * (height + CAPTION_PX)
        draw.text((x + 3, y + 2), printable(sample.caption)[:LETTERS], fill="black", font=font)
        picture.paste(part, (x, y + CAPTION_PX))
    stream = BytesIO()
    picture.save(stream, "PNG")
    return stream.getvalue()


def _drawn(sample: Sample, names: Mapping[int, str]) -> Image.Image:
    """Draw the first `MOST_BOXES` boxes on an image that is made smaller if it is larger than `SIDE_PX`."""
    image = Image.fromarray(sample.image)
    scale = min(1.0, SIDE_PX / max(image.size))
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    boxes_xyxy = np.reshape(np.asarray(sample.boxes.boxes_xyxy, np.float64), (-1, 4))[:MOST_BOXES] * scale
    labels = list(sample.boxes.labels)[:MOST_BOXES]
    texts = [names.get(label) or f"class {label}" for label in labels]
    if sample.boxes.scores is not None:
        texts = [f"{text} {score:.2f}" for text, score in zip(texts, sample.boxes.scores, strict=False)]
    pixels = np.asarray(image.resize(size, Image.Resampling.LANCZOS))
    return draw_boxes(pixels, boxes_xyxy.tolist(), texts, [class_color(label) for label in labels])
