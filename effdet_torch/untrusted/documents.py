"""JSON and YAML from strangers: one kind of error for whatever is wrong with them, in bounded memory."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import yaml

MAX_VALUES = 100_000  # in a YAML file, with its aliases expanded; a label map of 20 000 classes has 40 000


def parse_json(content: bytes | str, distinct: bool = False) -> Any:
    """Return the values of a JSON document.

    Args:
        content: the document.
        distinct: refuse a key that an object has twice, of which the last one counts otherwise.

    Raises:
        ValueError: It is not JSON, or is nested too deeply.
    """
    try:
        return json.loads(content, object_pairs_hook=_distinct if distinct else None)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def parse_yaml(content: bytes | str, loader: type[yaml.SafeLoader] | None = None) -> Any:
    """Return the values of a YAML document.

    Args:
        content: the document.
        loader: another one than `yaml.SafeLoader`.

    Raises:
        ValueError: It is not YAML, has a key twice, is nested too deeply, or its aliases stand for more than
            `MAX_VALUES` values; the text is one line.
    """
    import yaml  # late: most runs read no YAML

    try:
        reader = (loader or yaml.SafeLoader)(content)
        node = reader.get_single_node()
        _require_small(node, {})
        return None if node is None else reader.construct_document(node)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    except (yaml.YAMLError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        # All but the first: from PyYAML, for values that contradict their tag, such as `!!int ""`.
        raise ValueError(" ".join(str(error).split())) from error


def _require_small(node: yaml.Node | None, known: dict[int, int]) -> int:
    """Return how many values a node stands for, with aliases and merge keys expanded.

    Args:
        node: of a composed document; what an alias stands for is the same node.
        known: {id of a node: its count}, 0 while it is counted.
    """
    if node is None or known.get(id(node)):
        return 0 if node is None else known[id(node)]
    if id(node) in known:
        raise ValueError("an alias stands for a value that contains it")
    known[id(node)] = 0
    parts = node.value if isinstance(node.value, list) else []
    _require_distinct_keys(node, [part[0] for part in parts if isinstance(part, tuple)])
    children = (child for part in parts for child in (part if isinstance(part, tuple) else (part,)))
    count = 1 + sum(_require_small(child, known) for child in children)
    if count > MAX_VALUES:
        raise ValueError(f"it holds more than {MAX_VALUES} values; aliases count as often as they are used")
    known[id(node)] = count
    return count


def _require_distinct_keys(mapping: yaml.Node, keys: list[yaml.Node]) -> None:
    """Refuse a key that stands twice: PyYAML would take the last one."""
    counts = Counter((key.tag, key.value) for key in keys if isinstance(key.value, str))
    if twice := [key for (_, key), count in counts.items() if count > 1]:
        raise ValueError(f"duplicate key {twice[0]!r} in the mapping of line {mapping.start_mark.line + 1}")


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        ((twice, _),) = Counter(key for key, _ in pairs).most_common(1)
        raise ValueError(f"duplicate key {twice!r}")
    return values
