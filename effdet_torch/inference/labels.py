"""Names of the classes. Channel c of the class head is category c + 1, for COCO and for custom classes."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from numbers import Integral
from pathlib import Path
from typing import Any

from effdet_torch.checks import LABEL_MAP, require_label_map, require_type
from effdet_torch.config import EfficientDetConfig
from effdet_torch.errors import UsageError
from effdet_torch.untrusted.documents import parse_json, parse_yaml
from effdet_torch.untrusted.files import MAX_JSON_BYTES, MAX_TEXT_BYTES, MAX_YAML_BYTES, read_text, reason_of

COCO_NUM_CLASSES = 90  # ids up to this one, of which 80 have a name
BACKGROUND = frozenset({"background", "__background__", "_background_", "bg", "???"})
NO_NAME = frozenset({"", "n/a", "???"})

# Where a file of more than names has them: COCO annotations, the official config.yaml, YOLO's data.yaml.
KEYS = ("categories", "label_map", "names")
ITEM = re.compile(r"\bitem\s*:?\s*\{")
TOKEN = re.compile(r"""#[^\n]*|[{}]|(?<!\w)(\w+)\s*:\s*("(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|[^\s,;{}"']+)""")


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
        parse = PARSERS.get(suffix, _lines if ITEM.match(text.lstrip()) is None else _items)
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
    """Read a label map of the TF Object Detection API: item { id: 1 name: "cat" display_name: "Cat" }."""
    names: dict[int, str] = {}
    for fields in _item_fields(text):
        name = fields.get("display_name", fields.get("name"))
        if "id" not in fields or name is None:
            raise ValueError(f"an item lacks id or name: {fields}")
        if names.setdefault(int(fields["id"]), name) != name:
            raise ValueError(f"two items have the id {fields['id']}")
    return names


def _item_fields(text: str) -> Iterator[dict[str, str]]:
    depth, fields = 0, dict[str, str]()
    for token in TOKEN.finditer(text):
        if token[0] == "{":
            depth, fields = depth + 1, {} if depth == 0 else fields
        elif token[0] == "}":
            depth -= 1
            if depth == 0:
                yield fields
        elif token[1] is not None and depth == 1:  # deeper ones are keypoints and the like
            quoted = token[2][0] in "\"'"
            fields[token[1]] = re.sub(r"\\(.)", r"\1", token[2][1:-1]) if quoted else token[2]


# Suffix -> how the text is parsed; other files have one name per line.
PARSERS: Mapping[str, Callable[[str], Any]] = {
    ".json": parse_json,
    ".yaml": parse_yaml,
    ".yml": parse_yaml,
    ".pbtxt": _items,
}
MOST_BYTES: Mapping[str, int] = {".json": MAX_JSON_BYTES, ".yaml": MAX_YAML_BYTES, ".yml": MAX_YAML_BYTES}


def _read_label_map(path: Path, content: Any) -> dict[int, str]:
    try:
        names = _numbered(content)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise _no_names(path) from error
    for number, name in names.items():
        if number < 1:
            raise UsageError(f"{path} names category {number}; category ids start at 1 (class channel + 1)")
        if isinstance(name, bool) or not isinstance(name, (str, int, float)):  # YAML reads an unquoted `no` as false
            raise UsageError(
                f"{path}: the name of category {number} is a {type(name).__name__}; quote it to make it text"
            )
    return {number: "" if _is(name, NO_NAME) else str(name) for number, name in names.items()}


def _numbered(content: Any) -> dict[int, Any]:
    """Return {number: name} of any form that holds names; the background class is left out."""
    key = next((key for key in KEYS if isinstance(content, dict) and key in content), None)
    if key is not None:
        content = content[key]
        if key == "label_map" and content == "coco":  # the official name of COCO's own
            return dict(COCO_NAMES)
    if isinstance(content, list):
        if key == "categories":
            return _without_background({category["id"]: category["name"] for category in content})
        if not content or not all(isinstance(name, str) for name in content):
            raise TypeError("expected names")
        first = 0 if _is(content[0], BACKGROUND) else 1
        return _without_background(dict(enumerate(content, start=first)))
    numbers = content.values()
    if numbers and all(isinstance(x, int) and not isinstance(x, bool) for x in numbers) and not _are_numbers(content):
        content = {number: name for name, number in content.items()}  # {name: id}
    names = {int(number): name for number, name in content.items()}
    if key == "names" and 0 in names and not _is(names[0], BACKGROUND):  # YOLO counts channels
        names = {number + 1: name for number, name in names.items()}
    return _without_background(names)


def _are_numbers(keys: Any) -> bool:
    return all(str(key).strip().isdecimal() for key in keys)


def _without_background(names: Mapping[Any, Any]) -> dict[int, Any]:
    return {int(number): name for number, name in names.items() if int(number) != 0 or not _is(name, BACKGROUND)}


def _is(name: Any, names: frozenset[str]) -> bool:
    return isinstance(name, str) and name.strip().lower() in names


def _no_names(path: Path) -> UsageError:
    return UsageError(
        f"{path} does not hold class names: expected one per line, a list, {{category id: name}}, COCO's categories "
        "with id and name, config.yaml with label_map, or a label map (.pbtxt)"
    )


COCO_NAMES: Mapping[int, str] = read_labels(Path(__file__).with_name("coco_names.txt"))
