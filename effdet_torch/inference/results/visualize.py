"""Draw detections on images."""

from __future__ import annotations

import colorsys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from effdet_torch.inference.results.detections import Detections
from effdet_torch.untrusted.text import printable

Color = tuple[int, int, int]
Rectangle = tuple[float, float, float, float]  # xmin, ymin, xmax, ymax in pixels

PADDING_PX = 2
SMALL = 4  # areas of a label: it would hide a good part of a box that is not larger
ROWS = 3  # of labels above and below a box, where the nearest is taken
MOST_IN_LEGEND = 12  # classes
GOLDEN_RATIO = 0.618034  # steps of it around the colour circle stay far from the steps just before


def draw_detections(image: NDArray[np.uint8], detections: Detections) -> Image.Image:
    """Draw boxes with class names and scores, over a tinted mask; a class has the same colour in every image.

    Args:
        image: (height, width, 3), RGB, 0..255; not changed.
        detections: in pixels of `image`.
    """
    if detections.mask is not None:
        image = tinted(image, detections.mask)
    texts = [f"{name} {score:.2f}" for name, score in zip(detections.names, detections.scores.tolist(), strict=True)]
    colors = [class_color(category_id) for category_id in detections.category_ids.tolist()]
    picture = draw_boxes(image, detections.boxes_xyxy.tolist(), texts, colors)
    _draw_legend(picture, detections.mask_shares())
    return picture


def tinted(image: NDArray[np.uint8], mask: NDArray[Any]) -> NDArray[np.uint8]:
    """Return an image, (height, width, 3), half of every pixel in the colour of its class in the mask."""
    classes, places = np.unique(mask, return_inverse=True)
    colors = np.array([class_color(number) for number in classes.tolist()], np.uint8)
    mixed: NDArray[np.uint8] = image // 2 + colors[places.reshape(mask.shape)] // 2
    return mixed


def _draw_legend(picture: Image.Image, shares: Mapping[int, float]) -> None:
    """Write the classes of a mask into the bottom left corner, the largest at the top."""
    draw, font = ImageDraw.Draw(picture), _font(picture)
    largest = sorted(shares, key=lambda number: -shares[number])[:MOST_IN_LEGEND]
    bottom = float(picture.height)
    for number in reversed(largest):
        text, color = f"class {number} {shares[number]:.1%}", class_color(number)
        _, _, width, height = draw.textbbox((0, 0), text, font=font)
        top = bottom - height - 2 * PADDING_PX
        draw.rectangle((0, top, width + 2 * PADDING_PX, bottom), fill=color)
        draw.text((PADDING_PX, bottom - PADDING_PX), text, fill=text_color(color), font=font, anchor="ld")
        bottom = top


def _font(picture: Image.Image) -> Any:
    """Return letters that grow with a picture."""
    return ImageFont.load_default(max(10.0, (picture.width * picture.height) ** 0.5 / 45))


def draw_boxes(
    image: NDArray[np.uint8], boxes_xyxy: Sequence[Sequence[float]], texts: Sequence[str], colors: Sequence[Color]
) -> Image.Image:
    """Draw boxes with texts; lines and letters grow with the image, and earlier boxes lie on top of later ones.

    Args:
        image: (height, width, 3), RGB, 0..255; not changed.
        boxes_xyxy: N boxes (xmin, ymin, xmax, ymax) in pixels of `image`.
        texts: N texts.
        colors: N colours, (red, green, blue), 0..255.
    """
    picture = Image.fromarray(np.ascontiguousarray(image))
    draw = ImageDraw.Draw(picture)
    side = (picture.width * picture.height) ** 0.5
    font = _font(picture)
    boxes = [_inside(box_xyxy, picture.size) for box_xyxy in boxes_xyxy]
    labels: list[Rectangle] = []
    texts = [printable(text) for text in texts]  # a line break would move it, half a surrogate pair has no letter
    for box, text in zip(boxes, texts, strict=True):
        labels.append(_place_label(draw.textbbox((0, 0), text, font=font), box, picture.size, labels, boxes))
    rows = list(zip(boxes, labels, colors, texts, strict=True))[::-1]  # the first last, on top
    for box, _, color, _ in rows:
        draw.rectangle(box, outline=color, width=max(1, round(side / 250)))
    for _, label, color, text in rows:
        draw.rectangle(label, fill=color)
        draw.text((label[0] + PADDING_PX, label[3] - PADDING_PX), text, fill=text_color(color), font=font, anchor="ld")
    return picture


def class_color(category_id: int) -> Color:
    """Return a bright colour (red, green, blue), 0..255, that differs clearly between neighbouring ids."""
    hue = category_id * GOLDEN_RATIO % 1
    # Three strengths, or else ids with nearly the same hue would look alike.
    value, saturation = ((1.0, 0.95), (0.85, 0.75), (1.0, 0.55))[category_id % 3]
    red, green, blue = colorsys.hsv_to_rgb(hue, saturation, value)
    return round(red * 255), round(green * 255), round(blue * 255)


def text_color(background: Color) -> Color:
    """Return black or white, whichever is easier to read on a background."""
    red, green, blue = background
    luminance = 0.299 * red + 0.587 * green + 0.114 * blue
    return (0, 0, 0) if luminance > 128 else (255, 255, 255)


def _inside(box_xyxy: Sequence[float], size: tuple[int, int]) -> Rectangle:
    """Return the part of a box that a picture of (width, height) can show; at its border if there is none."""
    right, bottom = size[0] - 1, size[1] - 1
    xmin, ymin, xmax, ymax = box_xyxy
    left, top = min(max(xmin, 0), right), min(max(ymin, 0), bottom)
    return left, top, max(left, min(xmax, right)), max(top, min(ymax, bottom))


def _place_label(
    text_box: Rectangle, box: Rectangle, size: tuple[int, int], taken: list[Rectangle], boxes: list[Rectangle]
) -> Rectangle:
    """Return the place for a label at a box that covers the least of the other labels, then of small boxes.

    Of several such places the first is taken.
    """
    width, height = text_box[2] + 2 * PADDING_PX, text_box[3] + 2 * PADDING_PX
    places = [_shifted_inside(x, y, width, height, size) for x, y in _label_corners(box, width, height)]
    areas = np.array([(xmax - xmin) * (ymax - ymin) for xmin, ymin, xmax, ymax in boxes])
    small = np.nonzero(areas <= SMALL * width * height)[0]
    hidden = _common_areas(places, [boxes[index] for index in small]) / np.maximum(areas[small], 1)
    order = np.lexsort((hidden.sum(axis=1), _common_areas(places, taken).sum(axis=1)))  # stable; the last key first
    return places[int(order[0])]


def _label_corners(box: Rectangle, width: float, height: float) -> Iterator[tuple[float, float]]:
    """Yield top left corners for a label, the best first.

    Above the box (if there is room), inside at the top, below, inside at the bottom, on its right, on its left; then in
    further rows above and below.
    """
    xmin, ymin, xmax, ymax = box
    for y in (ymin - height, ymin, ymax, ymax - height)[ymin < height :]:
        yield xmin, y
        yield xmax - width, y
    for x in (xmax, xmin - width):
        yield x, ymin
        yield x, ymax - height
    for row in range(1, ROWS):
        for y in (ymin - (row + 1) * height, ymax + row * height):
            yield xmin, y
            yield xmax - width, y


def _shifted_inside(x: float, y: float, width: float, height: float, size: tuple[int, int]) -> Rectangle:
    left = max(0.0, min(x, size[0] - 1 - width))
    top = max(0.0, min(y, size[1] - 1 - height))
    return left, top, left + width, top + height


def _common_areas(first: Sequence[Rectangle], second: Sequence[Rectangle]) -> NDArray[np.float64]:
    """Return the areas (M, N) that each of M rectangles shares with each of N."""
    one, other = np.reshape(first, (-1, 1, 4)), np.reshape(second, (1, -1, 4))
    sides = np.minimum(one[..., 2:], other[..., 2:]) - np.maximum(one[..., :2], other[..., :2])
    areas: NDArray[np.float64] = np.maximum(sides, 0.0).prod(axis=-1)
    return areas
