"""JSON and YAML from strangers: one kind of error for whatever is wrong with them, in bounded memory."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import yaml

MAX_VALUES = 100_000  # in a YAML file, with its aliases expanded; a label map of 20 000 classes has 40 000
MERGE, EQUALS = "tag:yaml.org,2002:merge", "tag:yaml.org,2002:value"  # of the keys `<<`, and `=`, which is a text


class Repeating(dict[str, Any]):
    """An object of JSON with keys that it has more than once, of which the last one counts.

    Attributes:
        twice: these keys.
    """

    twice: tuple[str, ...]


def parse_json(content: bytes | str, mark_duplicates: bool = False) -> Any:
    """Return the values of a JSON document.

    Args:
        content: the document.
        mark_duplicates: make an object that has a key twice `Repeating`.

    Raises:
        ValueError: It is not JSON, or is nested too deeply.
    """
    try:
        return json.loads(content, object_pairs_hook=_marked if mark_duplicates else None)
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
        mappings: dict[int, yaml.Node] = {}
        _require_small(node, {}, mappings)
        for mapping in mappings.values():
            _require_distinct_keys(mapping, reader)
        return None if node is None else reader.construct_document(node)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    except (yaml.YAMLError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        # All but the first: from PyYAML, for values that contradict their tag, such as `!!int ""`.
        raise ValueError(" ".join(str(error).split())) from error


def _require_small(node: yaml.Node | None, known: dict[int, int], mappings: dict[int, yaml.Node]) -> int:
    """Return how many values a node stands for, with aliases and merge keys expanded.

    Args:
        node: of a composed document; what an alias stands for is the same node.
        known: {id of a node: its count}, 0 while it is counted.
        mappings: takes the mappings, {id of a node: the node}.
    """
    if node is None or known.get(id(node)):
        return 0 if node is None else known[id(node)]
    if id(node) in known:
        raise ValueError("an alias stands for a value that contains it")
    known[id(node)] = 0
    parts = node.value if isinstance(node.value, list) else []
    if parts and isinstance(parts[0], tuple):
        mappings[id(node)] = node
    children = (child for part in parts for child in (part if isinstance(part, tuple) else (part,)))
    count = 1 + sum(_require_small(child, known, mappings) for child in children)
    if count > MAX_VALUES:
        raise ValueError(f"it holds more than {MAX_VALUES} values; aliases count as often as they are used")
    known[id(node)] = count
    return count


def _require_distinct_keys(mapping: yaml.Node, reader: yaml.SafeLoader) -> None:
    """Refuse two keys that become the same, such as 1 and 01: PyYAML would take the last one.

    Several merge keys (`<<`) are several mappings to merge.
    """
    first: dict[Any, yaml.Node] = {}
    for key, _ in mapping.value:
        if key.tag == MERGE:
            continue
        found = first.setdefault(key.value if key.tag == EQUALS else reader.construct_object(key, deep=True), key)
        if found is not key:
            texts = dict.fromkeys(repr(node.value) if isinstance(node.value, str) else "[...]" for node in (found, key))
            raise ValueError(f"duplicate key {' = '.join(texts)} in the mapping of line {mapping.start_mark.line + 1}")


def _marked(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        values = Repeating(values)
        values.twice = tuple(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
    return values


def keys_twice(value: Any) -> tuple[str, ...]:
    """Return the keys that an object of `parse_json(..., mark_duplicates=True)` has more than once."""
    return value.twice if isinstance(value, Repeating) else ()
