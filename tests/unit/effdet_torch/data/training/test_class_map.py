"""Which classes a trained model gets, and whether it keeps its class head."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest

from effdet_torch.data.dataset import DataObject, DataSet, Numbering
from effdet_torch.data.training.class_map import ClassMap, classes_of
from effdet_torch.errors import EvaluationError
from effdet_torch.inference.labels import COCO_NAMES

CATS = {1: "cat", 2: "dog"}


def data_set(
    categories: Mapping[int, str],
    used: Iterable[int] | None = None,
    numbering: Numbering = "stated",
    name: str = "train.json",
    is_crowd: bool = False,
) -> DataSet:
    objects = tuple(DataObject(1, x, (0, 0, 1, 1), 1, is_crowd) for x in (categories if used is None else used))
    return DataSet("x", Path(name), (), categories, objects, numbering=numbering)


def kinds(found: ClassMap) -> dict[str, int]:
    return {note.kind: note.count for note in found.notes}


def used(data: DataSet) -> list[int]:
    return [item.category_id for item in data.objects]


@pytest.mark.parametrize("start", [0, 1, 1000])
def test_cocos_eighty_classes_keep_the_head(start: int) -> None:
    names = dict(enumerate(COCO_NAMES.values(), start=start))
    found = classes_of(data_set(names), data_set(COCO_NAMES), COCO_NAMES, 90)
    assert (found.num_classes, found.head_kept, found.label_map) == (90, True, COCO_NAMES)
    assert used(found.train) == used(found.val) == list(COCO_NAMES)
    assert found.reason == "the 80 classes of the data set have the names of the model's"


def test_a_sample_with_cocos_list_keeps_the_head() -> None:
    found = classes_of(data_set(COCO_NAMES, [90, 1]), data_set(COCO_NAMES, [1]), COCO_NAMES, 90)
    assert (found.head_kept, kinds(found)) == (True, {"class missing in train": 78, "class missing in val": 79})


def test_exporters_categories_that_are_none() -> None:
    """Roboflow lists the project as category 0."""
    data = data_set({0: "animals", 1: "Cat", 2: "dog"}, [1, 2])
    found = classes_of(data, data, CATS, 2)
    assert (found.head_kept, found.label_map, kinds(found)) == (True, CATS, {"category without objects": 1})


def test_other_names_are_a_new_head() -> None:
    data = data_set({1: "cat", 2: "cow"})
    found = classes_of(data, data, CATS, 2)
    assert (found.num_classes, found.head_kept, found.label_map) == (2, False, {1: "cat", 2: "cow"})
    assert found.reason == "only in the data set: cow; only in the model: dog"
    assert classes_of(data_set(CATS), data_set(CATS), CATS, 2).head_kept  # negative control


def test_some_of_the_models_classes_are_a_new_head() -> None:
    data = data_set({3: "car", 1: "person", 6: "bus"})
    found = classes_of(data, data, COCO_NAMES, 90)
    assert (found.num_classes, found.label_map) == (3, {1: "person", 2: "car", 3: "bus"})
    assert used(found.train) == [2, 1, 3]
    assert found.train.stated_ids == {1: 1, 2: 3, 3: 6}
    assert kinds(found) == {"category numbered": 2}
    assert "3 car is 2" in found.notes[0].sentence


@pytest.mark.parametrize("names", [{}, {1: "", 2: ""}])
def test_a_model_without_names(names: dict[int, str]) -> None:
    found = classes_of(data_set(CATS), data_set(CATS), names, 2)
    assert (found.head_kept, found.label_map, found.reason) == (
        False,
        CATS,
        "the model's classes have no names of their own",
    )


def test_classes_that_only_one_side_has() -> None:
    found = classes_of(data_set({1: "cat", 2: "dog"}), data_set({1: "cow", 2: "dog"}), {}, 2)
    assert found.label_map == {1: "cat", 2: "dog", 3: "cow"}
    assert (used(found.train), used(found.val)) == ([1, 2], [3, 2])
    assert kinds(found) == {"category numbered": 1, "class missing in train": 1, "class missing in val": 1}


def test_a_crowd_is_nothing_to_learn() -> None:
    data = data_set({1: "cat"}, is_crowd=True)
    assert kinds(classes_of(data, data_set({1: "cat"}), {}, 1)) == {"class missing in train": 1}


def test_ids_from_0() -> None:
    data = data_set({0: "cat", 1: "dog"})
    found = classes_of(data, data, {}, 1)
    assert (used(found.train), found.label_map) == ([1, 2], CATS)
    assert kinds(found) == {"category from 0": 1, "category numbered": 2}


def test_all_objects_of_one_class() -> None:
    one = data_set(CATS, [2])
    found = classes_of(one, one, {}, 1)
    assert (found.label_map, kinds(found)["one class alone"]) == ({1: "dog"}, 1)
    assert "one class alone" not in kinds(classes_of(data_set(CATS), one, {}, 1))
    assert not kinds(classes_of(data_set({1: "cat"}), data_set({1: "cat"}), {}, 1))


def test_names_in_different_orders() -> None:
    """Each split of VOC numbers the names that it has."""
    train, val = data_set({1: "cat", 2: "dog"}, numbering="names"), data_set({1: "dog"}, numbering="names")
    found = classes_of(train, val, {}, 1)
    assert (used(found.val), kinds(found)) == ([2], {"class missing in val": 1})


def test_categories_without_names() -> None:
    data = data_set({5: "", 3: ""})
    found = classes_of(data, data, CATS, 2)
    assert (used(found.train), found.num_classes, found.label_map) == ([2, 1], 2, {})
    assert found.reason == "not all categories of the data set have names of their own"
    with pytest.raises(EvaluationError, match=r"category 1 is 'cat' in train.json and 'dog' in val.json, and not all"):
        classes_of(data_set({1: "cat", 2: ""}), data_set({1: "dog"}, name="val.json"), {}, 1)


def test_ids_that_are_kept() -> None:
    data = data_set({2: "cat", 5: "dog"}, [5])
    found = classes_of(data, data, {}, 1, keep_ids=True)
    assert (found.num_classes, found.label_map, used(found.train)) == (5, {2: "cat", 5: "dog"}, [5])


@pytest.mark.parametrize(
    ("train", "val", "message"),
    [
        (
            data_set({0: "cat"}),
            data_set({0: "cat"}),
            r"train.json: category 0 'cat' cannot keep its id; labels are 1 to",
        ),
        (data_set({10_001: "cat"}), data_set({1: "cat"}), "category 10001 'cat' cannot keep its id"),
        (data_set({1: "cat"}, numbering="names"), data_set({1: "cat"}), "have names alone: there are no ids to keep"),
        (data_set({1: "cat"}), data_set({1: "dog"}), "give one id to different categories"),
    ],
)
def test_ids_that_cannot_be_kept(train: DataSet, val: DataSet, message: str) -> None:
    with pytest.raises(EvaluationError, match=message):
        classes_of(train, val, {}, 1, keep_ids=True)
