"""Categories of data sets against the classes of a model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest

from effdet_torch.data.classes import fit_classes, spelled
from effdet_torch.data.dataset import DataObject, DataSet, Numbering
from effdet_torch.errors import EvaluationError
from effdet_torch.inference.labels import COCO_NAMES

ABC = {1: "a", 2: "b", 3: "c"}


def data_set(
    categories: Mapping[int, str], used: Iterable[int] | None = None, numbering: Numbering = "stated"
) -> DataSet:
    objects = (DataObject(1, number, (0, 0, 1, 1), 1, False) for number in (categories if used is None else used))
    return DataSet("x", Path("x.json"), (), categories, tuple(objects), numbering=numbering)


def used(data: DataSet) -> list[int]:
    return [item.category_id for item in data.objects]


def kinds(data: DataSet) -> dict[str, int]:
    return {note.kind: note.count for note in data.notes}


def numbered(start: int) -> dict[int, str]:
    return dict(enumerate(COCO_NAMES.values(), start=start))


@pytest.mark.parametrize(("start", "moved"), [(0, 80), (1, 69), (1000, 80)])
def test_cocos_classes_without_its_gaps(start: int, moved: int) -> None:
    data = fit_classes(data_set(numbered(start)), 90, COCO_NAMES)
    assert data.categories == COCO_NAMES
    assert used(data) == list(COCO_NAMES)
    assert kinds(data) == {"category matched by name": moved}


def test_cocos_own_numbers_are_no_news() -> None:
    data = data_set(COCO_NAMES, used=(1, 90, 13))
    assert fit_classes(data, 90, COCO_NAMES) == data
    assert kinds(fit_classes(data, 90, COCO_NAMES)) == {}


@pytest.mark.parametrize(
    ("categories", "present", "names", "expected", "notes"),
    [
        # By name.
        ({1: "b", 2: "c", 3: "a"}, None, ABC, [2, 3, 1], {"category matched by name": 3}),
        ({0: "A", 1: "b", 2: "C "}, None, ABC, [1, 2, 3], {"category matched by name": 3}),
        ({7: "c", 9: "a"}, None, ABC, [3, 1], {"category matched by name": 2}),
        # A root, and a class that the model does not have, without objects.
        ({0: "root", 1: "a", 2: "b", 3: "c"}, (1, 3), ABC, [1, 3], {"category unused": 1}),
        ({0: "root", 1: "", 2: "", 3: ""}, (1, 3), {}, [1, 3], {"category unused": 1, "category matched by id": 2}),
        ({0: "a", 1: "b", 2: "zebra"}, (0, 1), ABC, [1, 2], {"category matched by name": 2, "category unused": 1}),
        # By id.
        ({1: "x", 2: "y", 3: "z"}, None, {}, [1, 2, 3], {"category matched by id": 3}),
        ({1: "", 2: "", 3: ""}, None, ABC, [1, 2, 3], {"category matched by id": 3}),
        ({1: "a", 2: "x"}, None, {1: "a"}, [1, 2], {"category matched by id": 1}),
        # Two that share a name: the one with objects.
        ({4: "a", 5: "a"}, (5,), ABC, [1], {"category matched by name": 1, "category unused": 1}),
    ],
)
def test_numbers(
    categories: dict[int, str], present: Iterable[int] | None, names: dict[int, str], expected: list[int], notes: object
) -> None:
    data = fit_classes(data_set(categories, present), 3, names)
    assert used(data) == expected
    assert kinds(data) == notes
    assert set(expected) <= set(data.categories) <= {1, 2, 3}


@pytest.mark.parametrize(
    ("categories", "present", "names", "problem"),
    [
        ({0: "x", 1: "y", 2: "z"}, None, {}, "the ids 0 are not among .* 1 to 3 .* must be 1 higher"),
        ({0: "x", 1: "y", 2: "z"}, (1, 2), {}, "the ids 0 are not among"),  # a class, although it has no objects
        ({3: "x", 4: "y"}, None, {}, "the ids 4 are not among"),
        ({1: "a", 2: "horse", 3: "b"}, None, ABC, r"2 is 'horse' there and 'b' in the model, 3 is 'b' there and 'c'"),
        ({1: "a", 2: "a", 3: "c"}, None, ABC, "2 is 'a' there and 'b' in the model"),
    ],
)
def test_refusals(
    categories: dict[int, str], present: Iterable[int] | None, names: dict[int, str], problem: str
) -> None:
    with pytest.raises(EvaluationError, match=f"x.json.*{problem}.*pass --labels FILE"):
        fit_classes(data_set(categories, present), 3, names)


@pytest.mark.parametrize(
    ("categories", "problem"),
    [
        ({12: "stop sign", 2: "unicorn"}, "12 is 'stop sign' there and 'nothing' in the model"),
        (dict.fromkeys(range(1, 81), ""), "12 is 'nothing' there and 'nothing' in the model"),
    ],
)
def test_an_id_that_coco_left_out(categories: dict[int, str], problem: str) -> None:
    with pytest.raises(EvaluationError, match=problem):
        fit_classes(data_set(categories), 90, COCO_NAMES)


def test_a_name_that_coco_removed() -> None:
    """COCO's authors named 91 things: 12 is a street sign, of which there are no annotations."""
    assert used(fit_classes(data_set({1: "person", 12: "street sign"}, used=(1,)), 90, COCO_NAMES)) == [1]


@pytest.mark.parametrize("numbering", ["order", "names"])
def test_classes_that_have_names_alone(numbering: Numbering) -> None:
    assert used(fit_classes(data_set({1: "c", 2: "b"}, numbering=numbering), 3, ABC)) == [3, 2]
    with pytest.raises(EvaluationError, match=r"2 classes .* by name \(x, y\), and the 3 of the model have none: pass"):
        fit_classes(data_set({1: "x", 2: "y"}, numbering=numbering), 3, {})
    with pytest.raises(EvaluationError, match=r"Not names of the model: y; only in the model: c\. Spell"):
        fit_classes(data_set({1: "b", 2: "y", 3: "a"}, numbering="names"), 3, ABC)
    with pytest.raises(EvaluationError, match=r"only in the model: c; more than once in the model: b\. Spell"):
        fit_classes(data_set({1: "b", 2: "y"}, numbering="names"), 3, {1: "b", 2: "b", 3: "c"})
    assert used(fit_classes(data_set({1: "x"}, numbering=numbering), 1, {})) == [1]


def test_the_order_of_all_classes_is_a_numbering() -> None:
    assert used(fit_classes(data_set({1: "x", 2: "y"}, numbering="order"), 2, {})) == [1, 2]
    with pytest.raises(EvaluationError, match="must be matched by name"):
        fit_classes(data_set({1: "x", 2: "y"}, numbering="names"), 2, {})


def test_spelling() -> None:
    assert spelled(" Traffic_Light ") == spelled("traffic-light") == spelled("traffic light") != spelled("trafficlight")
