"""The classes that a trained model gets: the model's own, if the data set has exactly these; else new ones.

Label = category id = class channel + 1.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from effdet_torch.data.classes import renumbered, spelled
from effdet_torch.data.dataset import DataSet
from effdet_torch.data.plausible import trainable
from effdet_torch.data.rules import Findings, Note
from effdet_torch.errors import EvaluationError, listed

MAX_ID = 10_000  # with kept ids there is a channel for each up to the highest
Key = int | str  # what is one class in both data sets: its name as compared; without names its id


@dataclass(frozen=True)
class ClassMap:
    """The classes of a training.

    Attributes:
        num_classes: of the model.
        label_map: {label: name} of the classes that have a name.
        head_kept: whether the model's class head is for these classes, so that it keeps its weights.
        reason: why it is or is not; a clause.
        train: the training images; category ids are labels.
        val: the images for validation; the same.
        notes: what was changed and assumed.
    """

    num_classes: int
    label_map: Mapping[int, str]
    head_kept: bool
    reason: str
    train: DataSet
    val: DataSet
    notes: tuple[Note, ...]


class Side(NamedTuple):
    """A data set, and which class each of its categories is."""

    data: DataSet
    keys: Mapping[int, Key]

    def renumbered(self, numbers: Mapping[Key, int]) -> DataSet:
        """Return the data set with labels for ids, without the categories that get none."""
        return renumbered(self.data, {old: numbers[key] for old, key in self.keys.items() if key in numbers})

    def used(self) -> set[Key]:
        """Return the classes that have objects."""
        return {self.keys[number] for number in {item.category_id for item in self.data.objects}}

    def trained(self) -> set[Key]:
        """Return the classes with an object that can be trained."""
        return {self.keys[number] for number in {x.category_id for x in trainable(self.data)}}

    def validated(self) -> set[Key]:
        """Return the classes with an object that is not a crowd: one outside of its image counts as missed."""
        return {self.keys[number] for number in {x.category_id for x in self.data.objects if not x.is_crowd}}


def classes_of(
    train: DataSet, val: DataSet, model_names: Mapping[int, str], num_classes: int, keep_ids: bool = False
) -> ClassMap:
    """Give the categories of both data sets the labels of one model.

    Args:
        train: the training images.
        val: the images for validation.
        model_names: {label: name} of the model that the training starts from; empty if it has none.
        num_classes: of that model.
        keep_ids: a new head has a channel for every id from 1 to the highest, as in the official code; else the
            categories with objects are numbered 1, 2, ... in the order of their ids.

    Raises:
        EvaluationError: The data sets contradict each other, or their ids cannot be kept.
    """
    sides = _sides(train, val)
    names = {key: side.data.categories[old] for side in reversed(sides) for old, key in side.keys.items()}
    used = sides[0].used() | sides[1].used()
    own = _own_numbers(model_names, num_classes)
    # COCO's lists name classes without objects, too, and exporters add categories that are none.
    head_kept = bool(own) and set(own) in (set(names), used)
    if head_kept:
        numbers = {key: own[key] for key in names if key in own}
        names |= {key: model_names[label] for key, label in own.items()}
    else:
        numbers = _stated(sides) if keep_ids else _counted(sides, used)
    found = Findings(train.path.name)
    _tell(found, sides, names, numbers, head_kept)
    labels = {label: names[key] for key, label in sorted(numbers.items(), key=lambda pair: pair[1]) if names[key]}
    count = num_classes if head_kept else max(numbers.values())
    reason = _reason(own, names, head_kept)
    first, second = (side.renumbered(numbers) for side in sides)
    return ClassMap(count, labels, head_kept, reason, first, second, found.notes())


def _own_numbers(names: Mapping[int, str], num_classes: int) -> dict[Key, int]:
    """Return the labels of a model by name; none if two have the same name."""
    own: dict[Key, int] = {spelled(name): label for label, name in names.items() if name and label <= num_classes}
    return own if len(own) == sum(bool(name) for label, name in names.items() if label <= num_classes) else {}


def _sides(train: DataSet, val: DataSet) -> tuple[Side, Side]:
    """Return which categories of both data sets are one class: by name if all have one of their own, else by id."""
    names = [[spelled(name) for name in data.categories.values()] for data in (train, val)]
    if all(all(some) and len(set(some)) == len(some) for some in names):
        return (
            Side(train, dict(zip(train.categories, names[0], strict=True))),
            Side(val, dict(zip(val.categories, names[1], strict=True))),
        )
    for number, name in train.categories.items():
        other = val.categories.get(number, "")
        if name and other and spelled(name) != spelled(other):
            raise EvaluationError(
                f"category {number} is {name!r} in {train.path.name} and {other!r} in {val.path.name}, and not all "
                "categories have names of their own; number them alike in both"
            )
    return Side(train, {x: x for x in train.categories}), Side(val, {x: x for x in val.categories})


def _counted(sides: tuple[Side, Side], used: set[Key]) -> dict[Key, int]:
    """Number the classes with objects from 1, in the order of their ids; those of the validation alone come last."""
    order = dict.fromkeys(key for side in sides for _, key in sorted(side.keys.items()) if key in used)
    return {key: number for number, key in enumerate(order, start=1)}


def _stated(sides: tuple[Side, Side]) -> dict[Key, int]:
    """Return the ids that the data sets state.

    Raises:
        EvaluationError: They state none, or one that is not a label.
    """
    numbers: dict[Key, int] = {}
    for data, keys in sides:
        if data.numbering == "names":
            raise EvaluationError(f"the categories of {data.path.name} have names alone: there are no ids to keep")
        for number, key in keys.items():
            numbers.setdefault(key, number)
            if not 1 <= number <= MAX_ID:
                raise EvaluationError(
                    f"{data.path.name}: category {number} {data.categories[number]!r} cannot keep its id; labels are "
                    f"1 to {MAX_ID} (class channel + 1, 0 is no class): number the categories from 1, or do not keep "
                    "their ids"
                )
    if len(set(numbers.values())) < len(numbers):
        raise EvaluationError(
            f"{sides[0].data.path.name} and {sides[1].data.path.name} give one id to different categories; number "
            "them alike, or do not keep their ids"
        )
    return numbers


def _tell(
    found: Findings, sides: tuple[Side, Side], names: Mapping[Key, str], numbers: Mapping[Key, int], head_kept: bool
) -> None:
    """Say what becomes of the categories, and which have nothing to train or to validate on."""
    texts = {key: name or f"class {key}" for key, name in names.items()}
    found.add_all("category without objects", (text for key, text in texts.items() if key not in numbers))
    found.add_all("category from 0", dict.fromkeys(_zeros(sides, texts)))
    kind = "category matched by name" if head_kept else "category numbered"
    found.add_all(kind, dict.fromkeys(_moved(sides, texts, numbers)))
    trained, validated = sides[0].trained(), sides[1].validated()
    found.add_all("class missing in train", (texts[key] for key in numbers if key not in trained))
    found.add_all("class missing in val", (texts[key] for key in numbers if key not in validated))
    found.add_all("one class alone", (texts[key] for key in trained if len(trained) == 1 < len(names)))


def _zeros(sides: tuple[Side, Side], texts: Mapping[Key, str]) -> Iterator[str]:
    """Yield the classes with objects and the id 0."""
    for side in sides:
        if 0 in side.keys and side.keys[0] in side.used():
            yield texts[side.keys[0]]


def _moved(sides: tuple[Side, Side], texts: Mapping[Key, str], numbers: Mapping[Key, int]) -> Iterator[str]:
    """Yield the categories that get another number than the data set states."""
    for data, keys in sides:
        stated = keys if data.numbering != "names" else {}
        moved = ((old, key) for old, key in stated.items() if numbers.get(key, old) != old)
        yield from (f"{old} {texts[key]} is {numbers[key]}" for old, key in moved)


def _reason(own: Mapping[Key, int], names: Mapping[Key, str], head_kept: bool) -> str:
    if head_kept:
        return f"the {len(own)} classes of the data set have the names of the model's"
    if not own:
        return "the model's classes have no names of their own"
    if not all(isinstance(key, str) for key in names):
        return "not all categories of the data set have names of their own"
    others = listed(name for key, name in names.items() if key not in own)
    missing = listed(key for key in own if key not in names)
    return f"only in the data set: {others or 'none'}; only in the model: {missing or 'none'}"
