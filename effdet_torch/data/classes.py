"""The categories of a data set against the classes of a model: category id = class channel + 1.

Names decide where both sides have them: tools number the same classes from 0, from 1, or with COCO's gaps. Without
names the data set must number its categories as the model does.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace

from effdet_torch.data.dataset import DataSet
from effdet_torch.data.rules import Findings
from effdet_torch.errors import EvaluationError, listed

Numbers = Mapping[int, int]  # {category of the data set: category of the model}

RENAME = (
    "Number the categories as the model does; or pass --labels FILE with the model's names, spelled as in the data "
    "set: then they are matched by name"
)


def fit_classes(data: DataSet, num_classes: int, names: Mapping[int, str]) -> DataSet:
    """Give the categories of a data set the model's numbers.

    Args:
        data: the data set.
        num_classes: of the model.
        names: {category id: name} of the model, as far as they are known.

    Returns:
        The data set with the categories that the model has.

    Raises:
        EvaluationError: Objects have categories that the model does not have, or that it calls otherwise.
    """
    if not data.has_truth:
        return data
    used, names = {x.category_id for x in data.objects}, {x: name for x, name in names.items() if x <= num_classes}
    named = _by_name(data.categories, used, names)
    numbers = named or _by_id(data, used, num_classes, names)
    found, texts = Findings(data.path.name), {x: f"{x} {name}".strip() for x, name in data.categories.items()}
    moved = [x for x, number in numbers.items() if number != x]
    found.add_all("category matched by name", (f"{texts[x]} is the model's {numbers[x]}" for x in moved))
    found.add_all("category unused", (text for x, text in texts.items() if x not in numbers))
    nameless = (x for x in numbers if not (names.get(numbers[x]) and data.categories[x]))
    found.add_all("category matched by id", (texts[x] for x in nameless if x in used))
    return renumbered(data, numbers).with_notes(found)


def renumbered(data: DataSet, numbers: Numbers) -> DataSet:
    """Return a data set with other numbers of its categories, and without those that get none."""
    return replace(
        data,
        categories={new: data.categories[old] for old, new in sorted(numbers.items(), key=lambda pair: pair[1])},
        objects=tuple(item._replace(category_id=numbers[item.category_id]) for item in data.objects),
        stated_ids={new: old for old, new in numbers.items()},
    )


def spelled(name: str) -> str:
    """Return a name in the form in which names are compared: case, `_` and `-` make no difference."""
    return re.sub(r"[\s_-]+", " ", name.strip().casefold())


def _by_name(categories: Mapping[int, str], used: Iterable[int], names: Mapping[int, str]) -> Numbers:
    """Return the numbers by name; none unless every category with objects has one name of one class of the model."""
    own = _unique(names)
    numbers = {old: own[name] for name, old in _unique(categories, used).items() if name in own}
    return numbers if all(number in numbers for number in used) else {}


def _unique(names: Mapping[int, str], preferred: Iterable[int] = ()) -> dict[str, int]:
    """Return {name as compared: number} of names that stand for one number; of several, one that is preferred."""
    wanted, holders = set(preferred), dict[str, list[int]]()
    for number, name in names.items():
        holders.setdefault(spelled(name), []).append(number)
    chosen = {name: [x for x in numbers if x in wanted] or numbers for name, numbers in holders.items() if name}
    return {name: numbers[0] for name, numbers in chosen.items() if len(numbers) == 1}


def _by_id(data: DataSet, used: set[int], num_classes: int, names: Mapping[int, str]) -> Numbers:
    """Return the numbers that the data set states, without categories that the model does not have."""
    categories, own = data.categories, {spelled(name) for name in names.values()}
    if data.numbering == "names" and (num_classes, len(used)) == (1, 1):
        return dict.fromkeys(used, 1)
    if data.numbering == "names" or (data.numbering == "order" and len(categories) != num_classes):
        raise EvaluationError(_unmatched(data, used, num_classes, names))

    def is_outside(number: int) -> bool:
        return not 1 <= number <= num_classes

    def is_contradicted(number: int) -> bool:
        name, expected = spelled(categories[number]), spelled(names.get(number, ""))
        if not expected:  # classes that a model never names are not in use: COCO's 12 and nine others
            return bool(own) and name in {"", *own}
        return name not in ("", expected)

    # As many categories as classes, from 0: then 0 is a class, and not the root that some tools list.
    needed = used | ({0} if sorted(categories) == list(range(num_classes)) else set())
    for is_wrong, problem in ((is_outside, _outside), (is_contradicted, _contradicted)):
        if wrong := sorted(filter(is_wrong, needed)):
            raise EvaluationError(problem(data, wrong, num_classes, names))
    return {x: x for x in categories if not (is_outside(x) or is_contradicted(x))}


def _unmatched(data: DataSet, used: set[int], num_classes: int, names: Mapping[int, str]) -> str:
    """Return which names only one side has: classes without ids are matched by name alone."""
    own, found = {spelled(name): name for name in names.values()}, {spelled(data.categories[x]) for x in used}
    unknown = [data.categories[x] for x in sorted(used) if spelled(data.categories[x]) not in own]
    others = [name for key, name in own.items() if key not in found]
    twice = sorted({name for name in names.values() if [*map(spelled, names.values())].count(spelled(name)) > 1})
    if not names:
        return (
            f"{data.path.name} has {len(data.categories)} classes that must be matched by name "
            f"({listed(data.categories.values())}), and the {num_classes} of the model have none: pass --labels FILE "
            "with the model's names, spelled as in the data set"
        )
    return (
        f"{data.path.name} has {len(data.categories)} classes that are matched by name, the model {num_classes}. "
        f"Not names of the model: {listed(unknown) or 'none'}; only in the model: {listed(others) or 'none'}"
        f"{f'; more than once in the model: {listed(twice)}' if twice else ''}. "
        "Spell the classes alike in the data set and in the model's names: those of --labels FILE, else of its file"
    )


def _outside(data: DataSet, wrong: list[int], num_classes: int, _: Mapping[int, str]) -> str:
    advice = RENAME
    if wrong == [0]:
        advice = f"Ids that start at 0 must be 1 higher, in the list of categories and in all annotations. {RENAME}"
    return (
        f"{data.path.name} has {len(data.categories)} categories, and the ids {listed(wrong)} are not among the "
        f"model's 1 to {num_classes} (class channel + 1). {advice}"
    )


def _contradicted(data: DataSet, wrong: list[int], _: int, names: Mapping[int, str]) -> str:
    pairs = (
        f"{x} is {data.categories[x] or 'nothing'!r} there and {names.get(x, 'nothing')!r} in the model" for x in wrong
    )
    return (
        f"{data.path.name} and the model give other names to the same ids ({listed(pairs, 3)}), and not all names of "
        f"the data set are names of the model. {RENAME}"
    )
