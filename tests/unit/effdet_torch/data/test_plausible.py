"""Boxes in another form than they are read in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from effdet_torch.data.dataset import DataImage, DataObject, DataSet
from effdet_torch.data.plausible import FORMS, look_at_boxes, trainable
from effdet_torch.data.rule_table import RULES
from effdet_torch.data.rules import Findings
from effdet_torch.errors import EvaluationError

SIZE = (400, 200)
# (xmin, ymin, width, height) in the right and lower parts of the image, as most sets have some
BOXES = [(200 + 20 * n, 110 + 10 * n, 150 - 20 * n, 60 - 8 * n) for n in range(7)]
Box = tuple[float, float, float, float]


def data_set(boxes: list[Box], size: tuple[int, int] | None = SIZE) -> DataSet:
    objects = tuple(DataObject(1, 1, box, 1, False) for box in boxes)
    return DataSet("x", Path("x.json"), (DataImage(1, Path("1.jpg"), size),), {1: "a"}, objects)


def found_in(boxes: list[Box], size: tuple[int, int] | None = SIZE) -> dict[str, int]:
    found = Findings("x.json")
    look_at_boxes(data_set(boxes, size), found)
    return {kind: places.count for kind, places in found.found.items()}


WRITTEN: dict[str, Callable[[Box], Box]] = {
    "box as corners": lambda box: (box[0], box[1], box[0] + box[2], box[1] + box[3]),
    "box as corners, y first": lambda box: (box[1], box[0], box[1] + box[3], box[0] + box[2]),
    "box as y, x, height, width": lambda box: (box[1], box[0], box[3], box[2]),
    "box by its centre": lambda box: (box[0] + box[2] / 2, box[1] + box[3] / 2, box[2], box[3]),
    "box as shares": lambda box: (box[0] / 400, box[1] / 200, box[2] / 400, box[3] / 200),
}


@pytest.mark.parametrize("kind", WRITTEN)
def test_a_form_is_recognised(kind: str) -> None:
    boxes = BOXES if kind != "box by its centre" else [(300 + n, 110 + n, 90 - n, 80 - n) for n in range(7)]
    assert found_in(boxes) == {}  # negative control
    found = Findings("x.json")
    look_at_boxes(data_set([WRITTEN[kind](box) for box in boxes]), found)
    assert list(found.found) == [kind]
    with pytest.raises(EvaluationError, match=r"x\.json cannot be used: boxes .*: 1\.jpg: \["):
        found.notes()


def test_every_form_has_a_rule() -> None:
    assert {RULES[kind].action for kind in FORMS} == {"refused"}


def test_boxes_that_nothing_explains_are_counted() -> None:
    assert found_in([(300, 150, 500, 500)] * 5) == {"box outside": 5}
    assert found_in([(300, 150, 500, 500), *BOXES]) == {"box outside": 1}
    assert found_in([(0, 0, 404, 202), *BOXES]) == {}  # rounded


@pytest.mark.parametrize("box", [(400, 0, 9, 9), (0, 200, 9, 9), (-9, 0, 9, 9), (0, -30, 9, 9), (900, 900, 9, 9)])
def test_boxes_that_have_no_part_in_their_images(box: Box) -> None:
    assert found_in([box, *BOXES]) == {"box beyond": 1}
    assert found_in([box]) == {"box beyond": 1, "no object inside": 1}  # however few there are
    inside = (min(max(box[0], -8.9), 399.9), min(max(box[1], -8.9), 199.9), *box[2:])
    assert found_in([inside]) == {}  # negative control
    assert found_in([(300, 150, 500, 500), box, *BOXES]) == {"box outside": 1, "box beyond": 1}
    crowd = data_set([box])
    found = Findings("x.json")
    look_at_boxes(replace(crowd, objects=(crowd.objects[0]._replace(is_crowd=True),)), found)
    assert not found.found  # neither required nor wrong to find


def test_the_note_names_the_first_ones() -> None:
    found = Findings("x.json")
    look_at_boxes(data_set([(400 + n, 0, 9, 9) for n in range(7)]), found)
    note, nothing = found.notes()
    assert note.sentence == (
        "Assumed (7): boxes that lie wholly outside of their images: an evaluation counts them as missed, as "
        "pycocotools does; they are not trained "
        "(e.g. 1.jpg: [400, 0, 9, 9], 1.jpg: [401, 0, 9, 9], 1.jpg: [402, 0, 9, 9])."
    )
    assert nothing.sentence == (
        "Assumed (1): images without an object to find: apart from crowds, every box lies wholly outside its image, so "
        "AP is 0 whatever is detected (e.g. 1.jpg)."
    )


def test_what_can_be_trained() -> None:
    data = data_set([(400, 0, 9, 9), (399, 0, 9, 9), (0, 0, 9, 9)])
    crowd = data.objects[2]._replace(is_crowd=True)
    assert trainable(replace(data, objects=(*data.objects[:2], crowd))) == [data.objects[1]]
    assert trainable(replace(data, images=())) == list(data.objects)  # of unknown size
    assert trainable(replace(data, objects=(crowd,))) == []


def test_what_cannot_be_judged() -> None:
    corners = [WRITTEN["box as corners"](box) for box in BOXES]
    assert found_in(corners[:4]) == {}
    assert found_in(corners, None) == {}
    assert found_in([(0, 0, 1, 1)] * 9, (8, 8)) == {}  # tiny pictures
    assert found_in(corners)  # negative control


@given(st.lists(st.tuples(*[st.floats(0, 1)] * 4), min_size=5, max_size=20))
def test_boxes_inside_of_their_images_are_never_refused(shares: list[Box]) -> None:
    boxes = [(x * 396, y * 196, 2 + w * (398 - x * 396), 2 + h * (198 - y * 196)) for x, y, w, h in shares]
    assert found_in(boxes) == {}
