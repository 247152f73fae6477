"""Label maps of the TF Object Detection API (`.pbtxt`): item { id: 1 name: "/m/01yrx" display_name: "cat" }.

Source: the API's `string_int_label_map.proto`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from effdet_torch.errors import EvaluationError, listed
from effdet_torch.untrusted.files import read_text, reason_of
from effdet_torch.untrusted.text_proto import parse_text_proto

BACKGROUND = frozenset({"background", "__background__", "_background_", "bg", "???"})
MAX_BYTES = 16 << 20  # 20 000 classes have 2 MB
FILE_NAME = re.compile(r".*label.*map.*\.pbtxt", re.IGNORECASE)  # a training's graph.pbtxt may lie there, too
ITEM, ID, NAME, DISPLAY_NAME = "item", "id", "name", "display_name"


class Label(NamedTuple):
    """The names of a class.

    Attributes:
        name: as records have it.
        display_name: for people; "" if there is none.
    """

    name: str
    display_name: str

    @property
    def shown(self) -> str:
        """The name for people."""
        return self.display_name or self.name


def parse_label_map(text: str) -> dict[int, Label]:
    """Return {category id: its names} by ascending id, without the background.

    Fields of an item other than its id and names, such as `keypoints`, are ignored.

    Raises:
        ValueError: It is not a label map, an item is incomplete, or an id has two names or is below 1.
    """
    fields = parse_text_proto(text)
    if others := [name for name in fields if name != ITEM]:
        raise ValueError(f"expected items alone, {ITEM} {{ ... }}; found {listed(x[:40] for x in others)}")
    labels: dict[int, Label] = {}
    for number, item in enumerate(fields.get(ITEM, []), start=1):
        category, label = _item(item, f"item {number}")
        if labels.setdefault(category, label) != label:
            raise ValueError(f"the items {labels[category].shown!r} and {label.shown!r} have the same id {category}")
    if 0 in labels and not {name.strip().lower() for name in labels[0]} & BACKGROUND:
        raise ValueError(
            f"the id of {labels[0].shown!r} is 0, which is the background's; category ids start at 1 (class channel + "
            "1): number the items as the model was trained"
        )
    return {category: labels[category] for category in sorted(labels) if category}


def _item(item: Any, where: str) -> tuple[int, Label]:
    if not isinstance(item, dict):
        raise ValueError(f"{where} is not a message, {ITEM} {{ ... }}")
    names = [_text(item, field, where) for field in (NAME, DISPLAY_NAME)]
    ids = item.get(ID, [])
    if len(ids) != 1 or not {NAME, DISPLAY_NAME} & item.keys():
        what = "has several ids" if len(ids) > 1 else "lacks id or name"
        raise ValueError(f"{where} {what}; found {listed(x[:40] for x in item) or 'nothing'}")
    category = ids[0]
    if not isinstance(category, int) or category < 0:
        raise ValueError(f"{where}: id is {str(category)[:40]!r}; expected a whole number from 1 on")
    return category, Label(*names)


def _text(item: dict[str, list[Any]], field: str, where: str) -> str:
    values = item.get(field, [""])
    if len(values) != 1 or type(values[0]) is not str:
        raise ValueError(f'{where}: {field} is {listed(str(x)[:40] for x in values)!r}; expected one text, "..."')
    try:
        values[0].encode()
    except ValueError as error:
        raise ValueError(f"{where}: {field} is not UTF-8") from error
    return values[0]


def find_label_map(folders: Iterable[Path]) -> tuple[Path, dict[int, Label]] | None:
    """Return the label map that lies in one of some folders, the first that has one; None if none has.

    Raises:
        EvaluationError: It cannot be read, or there are several that differ.
    """
    found: list[tuple[Path, dict[int, Label]]] = []
    for folder in folders:
        found = [(path, _read(path)) for path in sorted(folder.glob("*.pbtxt")) if FILE_NAME.fullmatch(path.name)]
        if found:
            break
    for path, labels in found:
        if labels != found[0][1]:
            raise EvaluationError(
                f"{path} and {found[0][0].name} give the classes different ids or names; keep the one that the records "
                "were written with"
            )
    return found[0] if found else None


def _read(path: Path) -> dict[int, Label]:
    try:
        return parse_label_map(read_text(path, MAX_BYTES))
    except OSError as error:
        raise EvaluationError(f"{path} cannot be read: {reason_of(error)}") from error
    except ValueError as error:
        raise EvaluationError(f"{path} is not a label map: {error}; fix it, or move it away") from error
