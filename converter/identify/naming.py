"""Restore names that Keras, an exporter or an outer model changed, with the help of the names in the mapping tables.

Keras numbers unnamed layers throughout a process: the second model's `stem/conv2d` is called `stem_1/conv2d_1`. The
official numbers, in contrast, restart in every scope (`conv2d`, `conv2d_1`). So if a scope holds `conv2d_1` and higher
numbers but no `conv2d`, all of them are lowered together. This applies only to scopes that a table spells out, never to
its templates (`blocks_{flat}`), and the accounting afterwards still checks every name and shape.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from functools import cache

from converter.identify.families import FAMILIES
from converter.plan.table import PROBES

MAX_COUNT = 32  # of numbered variables, far more than the inputs of any node
MAX_SCOPES = 16  # official names have up to 5; the prefixes of a name with many scopes would fill the memory


def undo_counters(names: Iterable[str]) -> dict[str, str]:
    """Return {official name: given name}."""
    names = list(names)
    numbers: dict[tuple[str, str], set[int]] = defaultdict(set)
    for name in names:
        for scope, base, number in _scopes(name):
            numbers[scope, base].add(number)
    shifts = {
        (scope, base): min(found)
        for (scope, base), found in numbers.items()
        # A list of layers that begins with bn_0 is no counter of Keras, which begins with bn.
        if min(found) and base in spelled_scopes() and (scope, f"{base}_0") not in numbers
    }
    return {_moved(name, shifts): name for name in names} if shifts else {name: name for name in names}


def drop_outer(names: Iterable[str]) -> dict[str, str]:
    """Return {name without the scopes of an outer model: given name}.

    A scope around those that recognise a network is the name of a model or module around it: `hub/class_net/...`,
    `net/efficientnet-b0/...`. It stays where names would then be equal, as those of two models.
    """
    names, known = list(names), _recognised_scopes()
    depths = {name: next((i for i, part in enumerate(name.split("/")) if part in known), 0) for name in names}
    outer = {"/".join(name.split("/")[:depth]) for name, depth in depths.items() if depth}
    scopes = sorted(outer, key=len, reverse=True)
    scope_of = {name: next((scope for scope in scopes if name.startswith(f"{scope}/")), "") for name in names}
    inner = {name: name.removeprefix(f"{scope}/") for name, scope in scope_of.items()}
    counts = Counter(inner.values())
    kept = {scope for name, scope in scope_of.items() if counts[inner[name]] > 1}
    return {name if scope_of[name] in kept else better: name for name, better in inner.items()}


def ends_like_a_variable(name: str, is_number: bool = False) -> bool:
    """Whether the last part of a name is that of a variable of some layer: kernel, gamma, WSM, ...

    Args:
        name: the name.
        is_number: whether it is known to be a single number, as WSM can be; `beta` is then a constant of TensorFlow's
            `silu`.
    """
    axes = _leaves().get(name.rsplit("/", 1)[-1], ())
    return bool(axes) and (not is_number or 0 in axes)


@cache
def spelled_scopes() -> frozenset[str]:
    """Return the scopes that the tables spell out: conv2d, tpu_batch_normalization, stem, ..."""
    tables = [family.table for family in FAMILIES]
    templates = [row.tf for table in tables for group in table.groups for row in group.rows]
    templates += [template for table in tables for template, _, _ in table.ignored if template.endswith("/")]
    return frozenset(part for template in templates for part in template.split("/") if part and "{" not in part)


@cache
def _recognised_scopes() -> frozenset[str]:
    """Return the outermost scopes that recognise a network: efficientnet-b0, fpn_cells, class_net, ..."""
    probes = [probe for probe, *_ in PROBES]
    rules = [rule for family in FAMILIES for rule in family.table.recognition.values()]
    scopes = {str(rule[probe]).split("/")[0] for rule in rules for probe in probes if probe in rule}
    choices = {name for family in FAMILIES for names in family.choices.values() for name in names}
    return frozenset(scope for scope in scopes if "{" not in scope) | choices


@cache
def _leaves() -> Mapping[str, set[int]]:
    """Return {last part of a variable's name: how many axes it may have}."""
    kinds = [kind for family in FAMILIES for kind in family.table.kinds.values()]
    axes: defaultdict[str, set[int]] = defaultdict(set)
    for part in (part for parts in kinds for part in parts):
        for name in part.numbered(MAX_COUNT if part.count else 1):
            axes[name].add(len(part.shape))
    return axes


def _scopes(name: str) -> list[tuple[str, str, int]]:
    """Return (enclosing scope, name, number) of every scope in a name; 0 if it has no number."""
    parts = name.split("/")[:-1]
    if len(parts) > MAX_SCOPES:
        return []
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
    return "/".join([*parts, name.rsplit("/", 1)[-1]]) if parts else name
