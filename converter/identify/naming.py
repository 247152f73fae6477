"""Names that Keras or an exporter changed, brought back by what the mapping tables know of names.

Keras numbers layers without a name of their own through a whole process: the second model's `stem/conv2d` is called
`stem_1/conv2d_1`. The official numbers, in contrast, begin anew in every scope (`conv2d`, `conv2d_1`). So where a
scope holds `conv2d_1` and up but no `conv2d`, all of them move down together. Only scopes that the table spells out
take part, never its templates (`blocks_{flat}`), and the accounting afterwards still needs every name and shape.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from functools import cache

from converter.identify.families import FAMILIES


def undo_counters(names: Iterable[str]) -> dict[str, str]:
    """Return {official name: given name}."""
    names = list(names)
    numbers: dict[tuple[str, str], set[int]] = defaultdict(set)
    for name in names:
        for scope, base, number in _scopes(name):
            numbers[scope, base].add(number)
    shifts = {key: min(found) for key, found in numbers.items() if min(found) and key[1] in spelled_scopes()}
    return {_moved(name, shifts): name for name in names} if shifts else {name: name for name in names}


def ends_like_a_variable(name: str) -> bool:
    """Whether the last part of a name is that of a variable of some layer: kernel, gamma, WSM, ..."""
    return name.rsplit("/", 1)[-1] in _leaves()


@cache
def spelled_scopes() -> frozenset[str]:
    """Return the scopes that the table spells out: conv2d, tpu_batch_normalization, stem, ..."""
    tables = [family.table for family in FAMILIES]
    templates = [row.tf for table in tables for group in table.groups for row in group.rows]
    templates += [template for table in tables for template, _ in table.ignored if template.endswith("/")]
    return frozenset(part for template in templates for part in template.split("/") if part and "{" not in part)


@cache
def _leaves() -> frozenset[str]:
    kinds = [kind for family in FAMILIES for kind in family.table.kinds.values()]
    return frozenset(source for parts in kinds for part in parts for source in part.sources)


def _scopes(name: str) -> list[tuple[str, str, int]]:
    """Return (scope around it, name, number) of every scope in a name; no number is 0."""
    parts = name.split("/")[:-1]
    return [("/".join(parts[:depth]), *_split_counter(part)) for depth, part in enumerate(parts)]


def _split_counter(part: str) -> tuple[str, int]:
    base, _, number = part.rpartition("_")
    is_counter = base and number.isdecimal() and number.isascii() and not number.startswith("0")
    return (base, int(number)) if is_counter and len(number) < 6 else (part, 0)


def _moved(name: str, shifts: dict[tuple[str, str], int]) -> str:
    parts = []
    for scope, base, number in _scopes(name):
        left = number - shifts.get((scope, base), 0)
        parts.append(f"{base}_{left}" if left else base)
    return "/".join([*parts, name.rsplit("/", 1)[-1]])
