"""Which stored copy of the variables is converted: the raw values or their exponential moving averages (EMA).

The official results use the averages. In a training or downloaded checkpoint they lie in the slot `ema`; in a TF1
SavedModel and in bundles exported from one, the raw name holds the average and the slot holds untrained initial values.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np

from converter.errors import MissingFileError, ViewError
from converter.formats.leveldb_table import extend_crc32c
from converter.plan.expand import Plan
from converter.source import VariableSource
from effdet_torch.errors import listed

ViewName = Literal["ema", "raw"]

WORDS: Mapping[str, str] = {"raw": "raw values", "ema": "averages (EMA)"}
# A batch norm that was never trained: its leaf variable is this constant everywhere.
UNTRAINED = {"weight": 1.0, "bias": 0.0, "running_mean": 0.0, "running_var": 1.0}
# Dtypes whose values NumPy can lay out as they are stored.
CHECKSUMMED = {"float16": "<f2", "float32": "<f4", "float64": "<f8"}
MAX_ELEMENTS = 1 << 20  # of a batch norm: an index without data can claim any shape


@dataclass(frozen=True)
class View:
    """One copy of the variables.

    Attributes:
        name: "ema" or "raw".
        reason: why this copy was taken, in words.
        stored: {variable: name it is stored under}.
        others: {stored name of another copy: its view}.
    """

    name: ViewName
    reason: str
    stored: Mapping[str, str]
    others: Mapping[str, ViewName]


def stored_names(plan: Plan, view: str) -> dict[str, str]:
    """Return {variable: name under which a view stores it} for all variables of a plan."""
    template = plan.table.views[view]
    return {variable: template.format(variable=variable) for variable in plan.variables}


def stored_in(source: VariableSource, plan: Plan, view: str) -> dict[str, str]:
    """Return {variable: name under which a source stores a view}; names that it does not have if it holds the other."""
    if source.held_view is None:
        return stored_names(plan, view)
    return stored_names(plan, "raw" if view == source.held_view else "ema")


def select_view(source: VariableSource, plan: Plan, wanted: ViewName | None = None) -> View:
    """Choose the copy to convert: the wanted one, else EMA where the source has it and its kind does not say otherwise.

    Raises:
        ViewError: The wanted copy is absent, incomplete or untrained.
    """
    names = {view: stored_in(source, plan, view) for view in ("ema", "raw")}
    if source.held_view is not None:
        return _held_view(source, names, wanted)
    present = {view: [v for v, s in stored.items() if s in source.variables] for view, stored in names.items()}
    if wanted == "raw" or (wanted is None and (source.raw_reason or not present["ema"])):
        reason = "asked for" if wanted else source.raw_reason or "the checkpoint has no averages (EMA)"
        return _view("raw", reason, names)
    _refuse_absent_or_partial(source, names["ema"], present["ema"])
    if is_untrained(source, plan, "ema"):
        what_next = (
            "so do the raw names: this network was never trained; to convert it all the same, use --weights raw"
            if is_untrained(source, plan, "raw")
            else "as in a SavedModel or a checkpoint exported from one, where the raw names hold the averages: "
            "use --weights raw"
        )
        raise ViewError(
            f"{source.path}: the EMA slots hold initial values (gamma 1, beta 0, mean 0, variance 1 everywhere), "
            + what_next
        )
    if wanted is not None:
        return _view("ema", "asked for", names)
    which = "are the same as its raw values" if _are_known_same(source, names) else "the official results use"
    return _view("ema", f"the checkpoint has averages (EMA), which {which}", names)


def _held_view(source: VariableSource, names: Mapping[str, Mapping[str, str]], wanted: ViewName | None) -> View:
    held: ViewName = "ema" if source.held_view == "ema" else "raw"
    if wanted not in (None, held):
        raise ViewError(
            f"{source.path}: its one copy is {WORDS[held]}, as it says itself; for the other one convert the "
            "checkpoint again"
        )
    return View(held, "the one copy that the file holds, as it says itself", names[held], {})


def _are_known_same(source: VariableSource, names: Mapping[str, Mapping[str, str]]) -> bool:
    """Whether both copies are there, and checksums say that they are the same."""
    pairs = [(names["raw"][name], stored) for name, stored in names["ema"].items()]
    return all(raw in source.variables and _known_same(source, raw, ema) for raw, ema in pairs)


def is_untrained(source: VariableSource, plan: Plan, view: ViewName) -> bool | None:
    """Return whether all batch norms of a view still hold their initial values; None if the data are not at hand."""
    names = stored_in(source, plan, view)
    norms = [
        (names[entry.sources[0]], UNTRAINED[suffix])
        for key, entry in plan.targets.items()
        if entry.layer.kind == "batch_norm" and (suffix := key.rsplit(".", 1)[1]) in UNTRAINED
    ]
    try:
        # The last layers go first: `all` ends at the first trained value. Without batch norms nothing can be said.
        return bool(norms) and all(_holds_only(source, name, initial) for name, initial in reversed(norms))
    except (MissingFileError, KeyError):
        return None


def differing(source: VariableSource, plan: Plan) -> int | None:
    """Return how many variables differ between the copies; None if a copy or the data are absent."""
    ema, raw = stored_in(source, plan, "ema"), stored_in(source, plan, "raw")
    try:
        return sum(not _same(source, ema[name], raw[name]) for name in plan.variables)
    except (MissingFileError, KeyError):
        return None


def _holds_only(source: VariableSource, name: str, value: float) -> bool:
    """Whether all elements of a variable have a value; the checksum tells without the data."""
    info, checksum = source.variables[name], source.checksum(name)
    if checksum is None or info.dtype not in CHECKSUMMED:
        return bool(np.all(source.read(name) == value))
    count = math.prod(info.shape)
    return count <= MAX_ELEMENTS and checksum == _checksum_of_constant(CHECKSUMMED[info.dtype], count, value)


@cache
def _checksum_of_constant(dtype: str, count: int, value: float) -> int:
    return extend_crc32c(0, np.full(count, value, dtype).tobytes())


def _same(source: VariableSource, a: str, b: str) -> bool:
    """Whether two variables have the same values; checksums tell without the data."""
    known = _known_same(source, a, b)
    return np.array_equal(source.read(a), source.read(b)) if known is None else known


def _known_same(source: VariableSource, a: str, b: str) -> bool | None:
    """Whether checksums say that two variables have the same values; None where they cannot."""
    checksums = source.checksum(a), source.checksum(b)
    if None in checksums or source.variables[a] != source.variables[b]:
        return None
    return checksums[0] == checksums[1]


def _view(name: ViewName, reason: str, names: Mapping[str, Mapping[str, str]]) -> View:
    others: dict[str, ViewName] = {}
    for other in ("ema", "raw"):
        if other != name:
            others.update(dict.fromkeys(names[other].values(), other))
    return View(name, reason, names[name], others)


def _refuse_absent_or_partial(source: VariableSource, stored: Mapping[str, str], present: list[str]) -> None:
    if not present:
        raise ViewError(f"{source.path}: no averages (EMA) in this checkpoint; use --weights raw")
    # A variable that is missing in every copy is the accounting's business, not the view's.
    absent = [
        name for variable, name in stored.items() if name not in source.variables and variable in source.variables
    ]
    if absent:
        separator = "\n  "
        raise ViewError(
            f"{source.path}: {len(present)} of {len(stored)} variables have averages (EMA), {len(absent)} have none; "
            f"converting a mixture would be wrong, use --weights raw. Missing:\n  {listed(absent, 20, separator)}"
        )
