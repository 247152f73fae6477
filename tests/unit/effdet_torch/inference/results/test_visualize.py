"""Drawn detections."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray

from effdet_torch.inference.labels import COCO_NAMES
from effdet_torch.inference.results.image_detections import ImageDetections
from effdet_torch.inference.results.visualize import Color, class_color, draw_detections, text_color

GREY = np.full((240, 320, 3), 128, np.uint8)
DOG = class_color(18)


def drawn(
    *boxes_xyxy: tuple[float, ...], category_ids: tuple[int, ...] | None = None, image: NDArray[np.uint8] = GREY
) -> NDArray[np.uint8]:
    """Draw boxes with falling scores; all are dogs by default."""
    count = len(boxes_xyxy)
    ids = category_ids or (18,) * count
    boxes, names = np.float32(boxes_xyxy).reshape(-1, 4), [COCO_NAMES[number] for number in ids]
    found = ImageDetections(boxes, np.linspace(0.9, 0.5, count, dtype=np.float32), np.array(ids), names)
    return np.asarray(draw_detections(image, found))


def colored(picture: NDArray[np.uint8], color: Color) -> NDArray[np.bool_]:
    return np.asarray((picture == color).all(axis=2))


def test_only_a_copy_is_changed() -> None:
    np.testing.assert_array_equal(drawn(), GREY)
    image = GREY.copy()
    assert (drawn((10, 10, 100, 100), image=image) != image).any()
    np.testing.assert_array_equal(image, GREY)


def test_a_box_is_where_it_was_found() -> None:
    found = colored(drawn((40.2, 60.4, 200.1, 180.3)), DOG)
    ys, xs = np.nonzero(found[60:])
    assert (xs.min(), xs.max(), ys.max() + 60) == (40, 200, 180)
    assert found[60:181, 40].all()
    assert found[60, 40:201].all()
    assert not found[70:170, 50:190].any()


def test_the_label_is_above_the_box_and_holds_text() -> None:
    above = drawn((40, 60, 200, 180))[:59]
    ys, xs = np.nonzero(colored(above, DOG))
    label = above[ys.min() : ys.max() + 1, xs.min() : xs.max() + 1]
    assert xs.min() == 40
    assert 10 <= label.shape[0] <= 24
    assert text_color(DOG) == (0, 0, 0)
    assert (label.max(axis=2) < 128).sum() > 40


@pytest.mark.parametrize(
    "box_xyxy", [(0, 0, 320, 240), (-50, -50, 400, 300), (300, 2, 319, 12), (500, 500, 600, 600), (5, 5, 5, 5)]
)
def test_boxes_at_the_border_and_outside_keep_a_label(box_xyxy: tuple[float, ...]) -> None:
    assert colored(drawn(box_xyxy), DOG).sum() > 300


def test_equal_boxes_show_all_labels_and_the_better_box() -> None:
    ids = (18, 1, 44)
    picture = drawn(*[(100, 100, 200, 150)] * 3, category_ids=ids)
    assert all(colored(picture, class_color(number)).sum() > 300 for number in ids)
    assert tuple(picture[125, 100]) == DOG


SMALL_ROW = tuple((30.0 + 24 * n, 110.0, 50.0 + 24 * n, 124.0) for n in range(8))
SMALL_PLACES = {
    "row": SMALL_ROW,
    "column": tuple((150.0, 20.0 + 16 * n, 166.0, 32.0 + 16 * n) for n in range(8)),
    "in a corner": ((0.0, 0.0, 14.0, 12.0), (16.0, 0.0, 30.0, 12.0), (0.0, 14.0, 14.0, 26.0)),
    "at the bottom": tuple((40.0 + 30 * n, 226.0, 60.0 + 30 * n, 239.0) for n in range(6)),
}


@pytest.mark.parametrize("boxes", SMALL_PLACES.values(), ids=SMALL_PLACES)
def test_labels_do_not_hide_small_boxes(boxes: tuple[tuple[float, ...], ...]) -> None:
    picture = drawn(*boxes)
    for xmin, ymin, xmax, ymax in np.array(boxes, int):
        inside = picture[ymin + 2 : ymax - 1, xmin + 2 : xmax - 1]
        assert (inside == 128).all(), "what was found can be seen"


def test_labels_of_small_boxes_do_not_hide_each_other() -> None:
    ids = tuple(range(1, 9))
    picture = drawn(*SMALL_ROW, category_ids=ids)
    alone = [
        colored(drawn(box, category_ids=(number,)), class_color(number)).sum()
        for box, number in zip(SMALL_ROW, ids, strict=True)
    ]
    together = [colored(picture, class_color(number)).sum() for number in ids]
    assert all(abs(a - b) < 0.2 * a for a, b in zip(alone, together, strict=True))


def test_a_label_stays_at_a_large_box_that_has_a_small_one_nearby() -> None:
    """The place above the box is taken by a small box; the next one is inside."""
    picture = drawn((40, 60, 300, 230), (40, 44, 60, 58), (280, 44, 300, 58))
    assert colored(picture[61:76, 42:100], DOG).sum() > 300
    assert colored(drawn((40, 60, 300, 230))[61:76, 42:100], DOG).sum() == 0  # negative control: nothing is above


def test_lines_and_letters_grow_with_the_image() -> None:
    found = colored(drawn((400, 600, 2000, 1800), image=np.full((2400, 3200, 3), 128, np.uint8)), DOG)
    assert found[1200].sum() >= 8 * 2
    rows = np.nonzero(found[:600])[0]
    assert rows.max() - rows.min() >= 50


@pytest.mark.parametrize("size", [(1, 1), (3, 200), (200, 3)])
def test_images_smaller_than_a_label(size: tuple[int, int]) -> None:
    assert drawn((0, 0, 1, 1), image=np.zeros((*size, 3), np.uint8)).shape == (*size, 3)


def relative_luminance(color: Color) -> float:
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in np.array(color) / 255]
    return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))


def test_colors_differ_and_text_can_be_read_on_them() -> None:
    colors = [class_color(number) for number in range(1, 91)]
    assert len(set(colors)) == 90
    assert all(np.abs(np.subtract(a, b)).max() > 60 for a, b in pairwise(colors))
    for color in colors:
        pair = [relative_luminance(color), relative_luminance(text_color(color))]
        assert (max(pair) + 0.05) / (min(pair) + 0.05) > 3, color  # WCAG 2, large text


def test_names_that_no_font_has_are_drawn_on_one_line() -> None:
    box, score, number = np.float32([[20, 60, 90, 90]]), np.float32([0.5]), np.array([18])

    def draw(name: str) -> NDArray[np.uint8]:
        return np.asarray(draw_detections(GREY, ImageDetections(box, score, number, [name])))

    hostile = draw("a\nb\udc80\x1b")
    np.testing.assert_array_equal(hostile, draw(r"a\nb\udc80\x1b"))
    assert (hostile != draw("ab")).any()  # negative control
