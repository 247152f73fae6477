"""Apply a plan: account for every variable, then turn arrays into tensors, one at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import DTypeLike

from converter.errors import AccountingError
from converter.plan.copies import View
from converter.plan.expand import Entry, Plan
from converter.plan.ops import Array, Shape
from converter.source import VariableInfo, VariableSource

SHOWN = 30  # problems in an error text; the report lists all
FLOATING = ("bfloat16", "float16", "float32", "float64")


@dataclass(frozen=True)
class Mismatch:
    """A variable whose stored shape (with its dtype, if that is no floating-point one) is not what the model needs."""

    name: str
    expected: str
    found: str


@dataclass(frozen=True)
class Accounting:
    """Where every stored variable goes, and what stays open.

    Attributes:
        consumed: stored names that are converted.
        other_view: stored names that hold another copy (EMA / raw) of a converted variable.
        ignored: {stored name: written reason}.
        missing: stored names that the plan needs and the source does not have.
        unexpected: stored names that nothing explains.
        mismatched: shapes that differ, and values that are no floating-point numbers.
    """

    consumed: tuple[str, ...]
    other_view: tuple[str, ...]
    ignored: Mapping[str, str]
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    mismatched: tuple[Mismatch, ...] = ()

    @property
    def problems(self) -> list[str]:
        """Every open point as one line."""
        return [
            *(f"missing: {name}" for name in self.missing),
            *(f"unexpected: {name}" for name in self.unexpected),
            *(f"mismatched: {m.name} has shape {m.found}; expected {m.expected}" for m in self.mismatched),
        ]

    def require_complete(self, what: str) -> None:
        """Raise if anything is open.

        Raises:
            AccountingError: Variables are missing, unexpected or mismatched; the text lists them.
        """
        if not self.problems:
            return
        counts = f"{len(self.missing)} missing, {len(self.unexpected)} unexpected, {len(self.mismatched)} mismatched"
        shown = (
            self.problems if len(self.problems) <= SHOWN else [*self.problems[:SHOWN], "... --report lists them all"]
        )
        raise AccountingError("\n  ".join([f"{what}: {counts}", *shown]), self.problems)


def account(variables: Mapping[str, VariableInfo], plan: Plan, view: View) -> Accounting:
    """Compare the stored variables with what a plan needs; nothing is read."""
    needed = {view.stored[name]: shape for name, shape in plan.variables.items()}
    reason = _reasons(plan)
    others = [name for name in variables if name not in needed and name in view.others]
    rest = [name for name in variables if name not in needed and name not in view.others]
    return Accounting(
        consumed=tuple(name for name in needed if name in variables),
        other_view=tuple(others),
        ignored={name: why for name in rest if (why := reason(name)) is not None},
        missing=tuple(name for name in needed if name not in variables),
        unexpected=tuple(name for name in rest if reason(name) is None),
        mismatched=tuple(
            Mismatch(name, str(shape), found)
            for name, shape in needed.items()
            if name in variables and (found := _stored_shape(variables[name])) != str(shape)
        ),
    )


def convert(
    source: VariableSource, plan: Plan, view: View, dtype: DTypeLike = np.float32
) -> Iterator[tuple[str, Array]]:
    """Yield (PyTorch key, array) in the order of the plan; an array is made when it is asked for.

    Args:
        source: where the variables are.
        plan: what to do, from `expand`; `account` must have found it complete.
        view: which copy to read.
        dtype: of all tensors but the integer counters. The fold is computed in it: float64 is the proof of the mapping.
    """
    for entry in plan.targets.values():
        assert entry.target is not None
        yield entry.target, derive(entry, source, view, dtype)


def derive(entry: Entry, source: VariableSource, view: View, dtype: DTypeLike = np.float32) -> Array:
    """Return the tensor of one entry, computed from the checkpoint in a dtype."""
    return entry.op.convert([source.read(view.stored[name]).astype(dtype, copy=False) for name in entry.inputs])


def account_state_dict(shapes: Mapping[str, Shape], plan: Plan) -> Accounting:
    """Compare a state_dict with what a plan makes; constants, which TensorFlow does not have, may be missing."""
    needed = {key: entry.target_shape for key, entry in plan.targets.items()}
    return Accounting(
        consumed=tuple(key for key in needed if key in shapes),
        other_view=(),
        ignored={},
        missing=tuple(key for key, entry in plan.targets.items() if key not in shapes and entry.sources),
        unexpected=tuple(key for key in shapes if key not in needed),
        mismatched=tuple(
            Mismatch(key, str(shape), str(shapes[key]))
            for key, shape in needed.items()
            if key in shapes and shapes[key] != shape
        ),
    )


def revert(entry: Entry, tensor: Array) -> list[Array]:
    """Return the variables of one entry, the inverse of `derive`: one array for each of its `sources`.

    Args:
        entry: how the tensor was made.
        tensor: it; anything for a bias that was folded and so has none, which comes back as zeros.
    """
    return entry.op.revert(tensor, [entry.shape] * len(entry.sources))


def _stored_shape(info: VariableInfo) -> str:
    return str(info.shape) if info.dtype in FLOATING else f"{info.shape} of dtype {info.dtype}"


def _reasons(plan: Plan) -> Callable[[str], str | None]:
    """Return a function from a stored name to the reason why the model does not need it; None if the table has none."""
    names: dict[str, str] = {}
    scopes: dict[str, str] = {}
    for template, reason in plan.table.ignored:
        if template.endswith("/"):
            scopes[template.format_map(plan.constants)] = reason
        elif "{variable}" in template:
            names.update({template.format(variable=variable): reason for variable in plan.variables})
        else:
            names[template] = reason

    def reason_of(name: str) -> str | None:
        return names.get(name) or next((why for scope, why in scopes.items() if f"{name}/".startswith(scope)), None)

    return reason_of
