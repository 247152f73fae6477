"""Names of the classes. Channel c of the class head is category c + 1, for COCO and for custom classes."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from numbers import Integral
from pathlib import Path
from typing import Any

from effdet_torch.checks import LABEL_MAP, require_label_map, require_type
from effdet_torch.config import EfficientDetConfig
from effdet_torch.data.layouts.label_map import BACKGROUND, parse_label_map
from effdet_torch.data.layouts.label_map import MAX_BYTES as MAX_LABEL_MAP_BYTES
from effdet_torch.errors import UsageError
from effdet_torch.untrusted.documents import keys_twice, parse_json, parse_yaml
from effdet_torch.untrusted.files import MAX_JSON_BYTES, MAX_TEXT_BYTES, MAX_YAML_BYTES, read_text, reason_of

COCO_NUM_CLASSES = 90  # ids up to this one, of which 80 have a name
NO_NAME = frozenset({"", "n/a", "???"})

# Where a file of more than names has them: COCO annotations, the official config.yaml, YOLO's data.yaml.
KEYS = ("categories", "label_map", "names")
CATEGORY_KEYS = "id", "name"  # of an entry in "categories"
# How a label map begins, in a file of any name.
LABEL_MAP_START = re.compile(r"(?:\s|#[^\n]*\n)*item\s*:?\s*[{<]")


def read_labels(path: str | Path, num_classes: int | None = None) -> dict[int, str]:
    """Read class names from a file.

    `.json` and `.yaml` hold {category id: name} (the official `label_map`, also inside a `config.yaml`), a list, COCO's
    "categories" or YOLO's "names"; `.pbtxt` is the label map of the TF Object Detection API; any other file has one
    name per line, the first for category 1; an empty line leaves its category without a name. A background class at
    the beginning is left out.

    Args:
        path: the file.
        num_classes: of the model that the names are for; None accepts any number of names.

    Returns:
        {category id: name}; ids start at 1.

    Raises:
        UsageError: The file cannot be read, has other contents, or names another number of classes; or an argument is
            of another type.
    """
    require_type(path, (str, os.PathLike), "path", "the path of a file of names")
    require_type(num_classes, (Integral, type(None)), "num_classes", "a number of classes")
    path = Path(path)
    names = _read(path)
    if num_classes is not None and max(names) != num_classes:
        raise UsageError(
            f"{path} has {len(names)} names for the categories 1 to {max(names)}, and the model has {num_classes} "
            f"classes: pass the names of this model; a text file has {num_classes} lines, empty where there is no name"
        )
    return {number: name for number, name in names.items() if name}


def chosen_names(label_map: Mapping[int, str] | str | Path | None, config: EfficientDetConfig) -> Mapping[int, str]:
    """Return the class names that a user chose: a dictionary, the path of a file, or None for those of the model.

    Raises:
        UsageError: The file cannot be read, or does not fit the model; or an argument is of another type.
        ConfigError: The dictionary names a category that the model does not have.
    """
    if label_map is None:
        return own_names(config)
    if not isinstance(label_map, Mapping):
        require_type(label_map, (str, os.PathLike), "label_map", f"{LABEL_MAP}, or the path of a file of names")
        return read_labels(label_map, config.num_classes)
    return require_label_map(label_map, config.num_classes)


def own_names(config: EfficientDetConfig) -> Mapping[int, str]:
    """Return the class names that a model brings along, or COCO's for 90 classes without names: {category id: name}."""
    is_coco = config.num_classes == COCO_NUM_CLASSES and not config.label_map
    return COCO_NAMES if is_coco else dict(config.label_map)


def _read(path: Path) -> dict[int, str]:
    """Return names by category, "" where one has no name."""
    try:
        suffix = path.suffix.lower()
        text = read_text(path, MOST_BYTES.get(suffix, MAX_TEXT_BYTES))
        parse = PARSERS.get(suffix, _lines if LABEL_MAP_START.match(text) is None else _items)
        content = parse(text)
    except OSError as error:
        raise UsageError(f"cannot read the class names in {path}: {reason_of(error)}") from error
    except ValueError as error:
        raise UsageError(f"cannot read the class names in {path}: {error}") from error
    names = _read_label_map(path, content)
    if not any(names.values()):
        raise _no_names(path)
    return names


def _lines(text: str) -> list[str]:
    """Return the name in every line; empty lines at the end name nothing."""
    return [line.strip() for line in text.rstrip().splitlines()]


def _items(text: str) -> dict[int, str]:
    """Read a label map of the TF Object Detection API; the display name counts where there is one."""
    return {category: label.shown for category, label in parse_label_map(text).items()}


# Suffix -> how the text is parsed; other files have one name per line.
PARSERS: Mapping[str, Callable[[str], Any]] = {
    ".json": partial(parse_json, mark_duplicates=True),
    ".yaml": parse_yaml,
    ".yml": parse_yaml,
    ".pbtxt": _items,
}
MOST_BYTES: Mapping[str, int] = {
    ".json": MAX_JSON_BYTES,
    ".yaml": MAX_YAML_BYTES,
    ".yml": MAX_YAML_BYTES,
    ".pbtxt": MAX_LABEL_MAP_BYTES,
}


def _read_label_map(path: Path, content: Any) -> dict[int, str]:
    if isinstance(content, dict) and isinstance(other := content.get("label_map"), str) and other != "coco":
        raise UsageError(
            f"{path}: label_map is {other!r}, which names another map; pass that file, or write the names here"
        )
    _require_keys_once(path, content)
    try:
        pairs = _numbered(content)
    except _NotWholeError as error:
        raise UsageError(f"{path}: {error}") from error
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise _no_names(path) from error
    names = dict(pairs)
    for number, name in pairs:
        if name != names[number]:
            raise UsageError(f"{path} gives category {number} two names, {name!r} and {names[number]!r}; keep one")
    for number, name in names.items():
        if number < 1:
            raise UsageError(f"{path} names category {number}; category ids start at 1 (class channel + 1)")
        if isinstance(name, bool) or not isinstance(name, (str, int, float)):  # YAML reads an unquoted `no` as false
            raise UsageError(
                f"{path}: the name of category {number} is a {type(name).__name__}; quote it to make it text"
            )
    return {number: "" if _is(name, NO_NAME) else str(name) for number, name in names.items()}


def _key_of_names(content: Any) -> str | None:
    """Return under which key a file of more than names has them; None if it has names alone."""
    return next((key for key in KEYS if isinstance(content, dict) and key in content), None)


def _require_keys_once(path: Path, content: Any) -> None:
    """Refuse a duplicate key in what holds the names; what else a file of JSON has does not count."""
    key = _key_of_names(content)
    held = content if key is None else content[key]
    categories = [x for x in held if isinstance(x, dict)] if isinstance(held, list) else []
    twice = [
        *(x for x in keys_twice(content) if x == key),
        *keys_twice(held),
        *(x for category in categories for x in keys_twice(category) if x in CATEGORY_KEYS),
    ]
    if twice:
        raise UsageError(f"cannot read the class names in {path}: duplicate key {twice[0]!r}; keep one")


def _numbered(content: Any) -> list[tuple[int, Any]]:
    """Return (number, name) of any form that holds names; the background class is left out."""
    key = _key_of_names(content)
    if key is not None:
        content = content[key]
        if key == "label_map" and content == "coco":  # the official name of COCO's own
            return list(COCO_NAMES.items())
    if isinstance(content, list):
        if key == "categories":
            return _without_background(tuple(category[part] for part in CATEGORY_KEYS) for category in content)
        if not content or not all(isinstance(name, str) for name in content):
            raise TypeError("expected names")
        first = 0 if _is(content[0], BACKGROUND) else 1
        return _without_background(enumerate(content, start=first))
    pairs, numbers = list(content.items()), content.values()
    if numbers and all(isinstance(x, int) and not isinstance(x, bool) for x in numbers) and not _are_numbers(content):
        pairs = [(number, name) for name, number in pairs]  # {name: id}
    pairs = [(_whole(number, name), name) for number, name in pairs]
    if key == "names" and any(x == 0 and not _is(name, BACKGROUND) for x, name in pairs):  # YOLO counts channels
        pairs = [(number + 1, name) for number, name in pairs]
    return _without_background(pairs)


def _are_numbers(keys: Any) -> bool:
    return all(str(key).strip().isdecimal() for key in keys)


def _without_background(pairs: Iterable[tuple[Any, Any]]) -> list[tuple[int, Any]]:
    numbered = ((_whole(number, name), name) for number, name in pairs)
    return [(number, name) for number, name in numbered if number != 0 or not _is(name, BACKGROUND)]


class _NotWholeError(ValueError):
    """A category id is a number and not a whole one."""


def _whole(number: Any, name: Any) -> int:
    """Return a category id as an integer, also one that is written as 2.0 or as a text."""
    if isinstance(number, bool) or (isinstance(number, float) and not number.is_integer()):
        raise _NotWholeError(f"the category id of {str(name)[:40]!r} is {number}; expected a whole number from 1 on")
    return int(number)


def _is(name: Any, names: frozenset[str]) -> bool:
    return isinstance(name, str) and name.strip().lower() in names


def _no_names(path: Path) -> UsageError:
    return UsageError(
        f"{path} does not hold class names: expected one per line, a list, {{category id: name}}, COCO's categories "
        "with id and name, config.yaml with label_map, or a label map (.pbtxt)"
    )


COCO_NAMES: Mapping[int, str] = read_labels(Path(__file__).with_name("coco_names.txt"))
