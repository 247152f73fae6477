"""Which stored copy of the variables is converted: the raw values or their exponential moving averages (EMA).

The official results use the averages. In a training or downloaded checkpoint they lie in the slot `ema`; in a TF1
SavedModel and in bundles exported from one, the raw name holds the average and the slot holds untrained initial values.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np

from converter.errors import MissingFileError, ViewError
from converter.formats.leveldb_table import extend_crc32c
from converter.plan.expand import Plan
from converter.source import VariableInfo, VariableSource
from effdet_torch.errors import first_of

ViewName = Literal["ema", "raw"]

WORDS: Mapping[str, str] = {"raw": "raw values", "ema": "averages (EMA)"}
# Values of a batch norm that was never trained, the same in every element.
UNTRAINED = {"weight": 1.0, "bias": 0.0, "running_mean": 0.0, "running_var": 1.0}
# Dtypes whose values NumPy can lay out as they are stored.
CHECKSUMMED = {"float16": "<f2", "float32": "<f4", "float64": "<f8"}
MAX_ELEMENTS = 1 << 20  # of a batch norm: an index without data could claim any shape


@dataclass(frozen=True)
class View:
    """One copy of the variables.

    Attributes:
        name: "ema" or "raw".
        reason: why this copy was chosen, in words.
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
    """Return {variable: name under which a source stores a view}; a source with one copy has it under the raw names."""
    if source.facts.held_view is None:
        return stored_names(plan, view)
    return stored_names(plan, "raw" if view == source.facts.held_view else "ema")


def select_view(source: VariableSource, plan: Plan, wanted: ViewName | None = None) -> View:
    """Choose the copy to convert: the wanted one, or else EMA if stored, unless this kind of source implies raw.

    Raises:
        ViewError: The wanted copy is absent, incomplete or untrained.
    """
    names = {view: stored_in(source, plan, view) for view in ("ema", "raw")}
    if source.facts.held_view is not None:
        return _held_view(source, names, wanted)
    has_averages = any(stored in source.variables for stored in names["ema"].values())
    if wanted is None and (problem := unknown_copy(source, plan)):
        choice = "--weights ema for the known averages, or --weights raw" if has_averages else "--weights raw"
        raise ViewError(f"{source.path}: {problem}; if it is not what you want, use {choice}")
    if wanted == "raw" or (wanted is None and (source.facts.raw_reason or not has_averages)):
        reason = "asked for" if wanted else source.facts.raw_reason or "the checkpoint has no averages (EMA)"
        return View("raw", reason, names["raw"], dict.fromkeys(names["ema"].values(), "ema"))
    if not has_averages:
        raise ViewError(f"{source.path}: no averages (EMA) in this checkpoint; use --weights raw")
    _refuse_partial(source, names["ema"])
    if is_untrained(source, plan, "ema"):
        next_step = (
            "and so do the raw names: this network was never trained; to convert it anyway, use --weights raw"
            if is_untrained(source, plan, "raw")
            else "as in a SavedModel or a checkpoint exported from one, where the raw names hold the averages: "
            "use --weights raw"
        )
        raise ViewError(
            f"{source.path}: the EMA slots hold initial values (gamma 1, beta 0, mean 0, variance 1 everywhere), "
            + next_step
        )
    which = "are the same as its raw values" if _are_known_same(source, names) else "the official results use"
    reason = f"the checkpoint has averages (EMA), which {which}" if wanted is None else "asked for"
    return View("ema", reason, names["ema"], dict.fromkeys(names["raw"].values(), "raw"))


def unknown_copies(variables: Mapping[str, VariableInfo], plan: Plan) -> dict[str, list[str]]:
    """Return {"X/NAME" or "NAME/X": names} of copies of most trainable variables X that the table does not know.

    They may be averages under a name of their own: an optimizer's slots have names that the table lists. Variables
    without a name, which are in a list "LIST/NUMBER", are copies if they have the shapes of most trainable ones.
    """
    templates = [*plan.table.views.values(), *(template for template, _ in plan.ignored)]
    known = {t.replace("{variable}", "X") for t in templates if "{variable}" in t}
    average = plan.table.views["ema"].format(variable="")
    found: dict[str, list[str]] = defaultdict(list)
    shapes: dict[str, Counter[tuple[int, ...]]] = defaultdict(Counter)
    for name, info in variables.items():
        own = name.removesuffix(average)
        if own in plan.variables:
            continue
        original, copy = copy_of(own, plan)
        if not copy and own[-1:].isdecimal():
            copy = f"{own.rpartition('/')[0]}/NUMBER"
        elif copy in ("", *known) or info.shape != plan.variables[original]:
            continue
        found[copy].append(name)
        shapes[copy][info.shape] += not original or original in plan.trainable
    wanted = Counter(plan.variables[name] for name in plan.trainable)
    return {copy: names for copy, names in found.items() if (shapes[copy] & wanted).total() > wanted.total() / 2}


def copy_of(name: str, plan: Plan) -> tuple[str, str]:
    """Return (variable X, "X/NAME" or "NAME/X"); empty if the name is none of these."""
    variable, _, slot = name.rpartition("/")
    if variable in plan.variables:  # nearly always
        return variable, f"X/{slot}"
    parts = name.split("/")
    for cut in range(1, len(parts)):
        first, last = "/".join(parts[:cut]), "/".join(parts[cut:])
        if last in plan.variables:
            return last, f"{first}/X"
        if first in plan.variables:
            return first, f"X/{last}"
    return "", ""


def unknown_copy(source: VariableSource, plan: Plan) -> str:
    """Return in words that a source holds a copy that the table does not know; empty if it does not."""
    for copy, names in unknown_copies(source.variables, plan).items():
        return (
            f"{len(names)} variables X have another one of the same shape, {copy}, which is no known slot of an "
            f"optimizer and may be the averages (the first is {names[0]})"
        )
    return ""


def _held_view(source: VariableSource, names: Mapping[str, Mapping[str, str]], wanted: ViewName | None) -> View:
    held: ViewName = "ema" if source.facts.held_view == "ema" else "raw"
    if wanted not in (None, held):
        raise ViewError(
            f"{source.path}: the only copy in the file is its {WORDS[held]}, according to its metadata; to get the "
            f"{WORDS[wanted]}, convert the original checkpoint again"
        )
    return View(held, "the only copy in the file, according to its metadata", names[held], {})


def _are_known_same(source: VariableSource, names: Mapping[str, Mapping[str, str]]) -> bool:
    """Whether both copies are stored, and equal by their checksums."""
    pairs = [(names["raw"][name], stored) for name, stored in names["ema"].items()]
    return all(raw in source.variables and _known_same(source, raw, ema) for raw, ema in pairs)


def is_untrained(source: VariableSource, plan: Plan, view: ViewName) -> bool | None:
    """Return whether all batch norms of a view still hold their initial values; None if the data is not available."""
    names = stored_in(source, plan, view)
    kinds = {kind for kind, parts in plan.table.kinds.items() if UNTRAINED.keys() <= {part.target for part in parts}}
    norms = [
        (names[entry.sources[0]], UNTRAINED[suffix])
        for key, entry in plan.targets.items()
        if entry.layer.kind in kinds and (suffix := key.rsplit(".", 1)[1]) in UNTRAINED
    ]
    try:
        # The last layers go first: `all` stops at the first trained value. Without batch norms there is no evidence.
        return bool(norms) and all(_holds_only(source, name, initial) for name, initial in reversed(norms))
    except (MissingFileError, KeyError):
        return None


def differing(source: VariableSource, plan: Plan) -> int | None:
    """Return how many variables differ between the copies; None if a copy or the data is not available."""
    ema, raw = stored_in(source, plan, "ema"), stored_in(source, plan, "raw")
    try:
        return sum(not _same(source, ema[name], raw[name]) for name in plan.variables)
    except (MissingFileError, KeyError):
        return None


def _holds_only(source: VariableSource, name: str, value: float) -> bool:
    """Whether all elements of a variable equal a value; where possible, the checksum decides without the data."""
    info, checksum = source.variables[name], source.checksum(name)
    if checksum is None or info.dtype not in CHECKSUMMED:
        return bool(np.all(source.read(name) == value))
    count = math.prod(info.shape)
    return count <= MAX_ELEMENTS and checksum == _checksum_of_constant(CHECKSUMMED[info.dtype], count, value)


@cache
def _checksum_of_constant(dtype: str, count: int, value: float) -> int:
    return extend_crc32c(0, np.full(count, value, dtype).tobytes())


def _same(source: VariableSource, a: str, b: str) -> bool:
    """Whether two variables have the same values; where possible, checksums decide without the data."""
    known = _known_same(source, a, b)
    return np.array_equal(source.read(a), source.read(b)) if known is None else known


def _known_same(source: VariableSource, a: str, b: str) -> bool | None:
    """Whether two variables have the same values by their checksums; None if these cannot decide."""
    checksums = source.checksum(a), source.checksum(b)
    if None in checksums or source.variables[a] != source.variables[b]:
        return None
    return checksums[0] == checksums[1]


def _refuse_partial(source: VariableSource, averages: Mapping[str, str]) -> None:
    # A variable that is missing in every copy is reported by the accounting instead.
    absent = [
        stored for name, stored in averages.items() if stored not in source.variables and name in source.variables
    ]
    if absent:
        present = sum(stored in source.variables for stored in averages.values())
        raise ViewError(
            f"{source.path}: {present} of {len(averages)} variables have averages (EMA), {len(absent)} have none; "
            "converting a mixture would be wrong, use --weights raw. Missing:",
            *(f"  {name}" for name in first_of(absent, 20)),
        )
