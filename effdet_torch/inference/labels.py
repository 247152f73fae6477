"""Names of the classes. Channel c of the class head is category c + 1, for COCO and for custom classes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from effdet_torch.errors import UsageError

COCO_NUM_CLASSES = 90  # ids up to this one, of which 80 have a name


def read_labels(path: str | Path) -> dict[int, str]:
    """Read class names from a file.

    `.json` and `.yaml` hold {category id: name} (the official `label_map`) or COCO's "categories"; any other file has
    one name per line, the first for category 1; an empty line leaves its category without a name.

    Returns:
        {category id: name}; ids start at 1.

    Raises:
        UsageError: The file cannot be read or has other contents.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix.lower() not in (".json", ".yaml", ".yml"):
            return {number: line.strip() for number, line in enumerate(text.splitlines(), 1) if line.strip()}
        content = json.loads(text) if path.suffix.lower() == ".json" else yaml.safe_load(text)
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        raise UsageError(f"cannot read the class names in {path}: {error}") from error
    return _read_label_map(path, content)


def _read_label_map(path: Path, content: Any) -> dict[int, str]:
    try:
        if "categories" in content:
            content = {category["id"]: category["name"] for category in content["categories"]}
        names = {int(number): name for number, name in content.items()}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UsageError(
            f"{path} does not hold class names: expected {{category id: name}}, or COCO's categories with id and name"
        ) from error
    for number, name in names.items():
        if number < 1:
            raise UsageError(f"{path} names category {number}; category ids start at 1 (class channel + 1)")
        if isinstance(name, bool) or not isinstance(name, (str, int, float)):  # YAML reads an unquoted `no` as false
            raise UsageError(
                f"{path}: the name of category {number} is a {type(name).__name__}; quote it to make it text"
            )
    return {number: str(name) for number, name in names.items()}


COCO_NAMES: Mapping[int, str] = read_labels(Path(__file__).with_name("coco_names.txt"))
