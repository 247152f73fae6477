"""Apply a plan: account for every variable, then turn arrays into tensors, one at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import DTypeLike

from converter.errors import AccountingError
from converter.plan.copies import View, copy_of, unknown_copies
from converter.plan.expand import Entry, Plan
from converter.plan.ops import Array, Shape
from converter.source import VariableInfo, VariableSource
from effdet_torch.errors import first_of

SHOWN = 30  # problems in an error text; the report lists all
# Two of three: a single number, not floating point, outside of the network's scopes.
STATE = "state of training: counters and other numbers that do not belong to a layer"
FLOATING = ("bfloat16", "float16", "float32", "float64")


@dataclass(frozen=True)
class Accounting:
    """What every stored variable is for, and what does not fit.

    Attributes:
        consumed: stored names that are converted.
        other_view: stored names that hold another copy (EMA / raw) of a converted variable.
        ignored: {stored name: written reason}.
        missing: stored names that the plan needs and the source does not have.
        unexpected: stored names that nothing explains.
        mismatched: {name: stored and expected shape, in words}; with the dtype where it is not a floating-point one.
    """

    consumed: tuple[str, ...]
    other_view: tuple[str, ...]
    ignored: Mapping[str, str]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    mismatched: Mapping[str, str]

    @property
    def problems(self) -> list[str]:
        """Every problem as one line."""
        return [
            *(f"missing: {name}" for name in self.missing),
            *(f"unexpected: {name}" for name in self.unexpected),
            *(f"mismatched: {name} has shape {shapes}" for name, shapes in self.mismatched.items()),
        ]

    def require_complete(self, what: str) -> None:
        """Raise if there is any problem.

        Raises:
            AccountingError: Variables are missing, unexpected or mismatched; the text lists them.
        """
        if problems := self.problems:
            counts = (
                f"{len(self.missing)} missing, {len(self.unexpected)} unexpected, {len(self.mismatched)} mismatched"
            )
            lines = [f"{what}: {counts}", *(f"  {problem}" for problem in first_of(problems, SHOWN))]
            lines[-1] += "; --report lists them all" if len(problems) > SHOWN else ""
            raise AccountingError(lines, problems)


def account(variables: Mapping[str, VariableInfo], plan: Plan, view: View) -> Accounting:
    """Compare the stored variables with what a plan needs; nothing is read."""
    needed = {view.stored[name]: shape for name, shape in plan.variables.items()}
    rest = [name for name in variables if name not in needed and name not in view.others]
    ignored = _ignored({name: variables[name] for name in rest}, plan)
    return Accounting(
        consumed=tuple(name for name in needed if name in variables),
        other_view=tuple(name for name in variables if name not in needed and name in view.others),
        ignored=ignored,
        missing=tuple(name for name in needed if name not in variables),
        unexpected=tuple(name for name in rest if name not in ignored),
        mismatched=_mismatched(needed, {name: _stored_shape(info) for name, info in variables.items()}),
    )


def account_state_dict(shapes: Mapping[str, Shape], plan: Plan) -> Accounting:
    """Compare a state_dict with what a plan makes; constants, which TensorFlow does not have, may be missing."""
    needed = {key: entry.target_shape for key, entry in plan.targets.items()}
    return Accounting(
        consumed=tuple(key for key in needed if key in shapes),
        other_view=(),
        ignored={},
        missing=tuple(key for key, entry in plan.targets.items() if key not in shapes and entry.sources),
        unexpected=tuple(key for key in shapes if key not in needed),
        mismatched=_mismatched(needed, {key: str(shape) for key, shape in shapes.items()}),
    )


def convert(
    source: VariableSource, plan: Plan, view: View, dtype: DTypeLike = np.float32
) -> Iterator[tuple[str, Array]]:
    """Yield (PyTorch key, array) in the order of the plan; each array is computed on demand.

    Args:
        source: where the variables are.
        plan: what to do, from `expand`; `account` must have found it complete.
        view: which copy to read.
        dtype: of all tensors but the integer counters. The fold is computed in it; float64 proves the mapping.
    """
    for key, entry in plan.targets.items():
        yield key, derive(entry, source, view, dtype)


def derive(entry: Entry, source: VariableSource, view: View, dtype: DTypeLike = np.float32) -> Array:
    """Return the tensor of one entry, computed from the checkpoint in a dtype."""
    return entry.op.convert([source.read(view.stored[name]).astype(dtype, copy=False) for name in entry.inputs])


def revert(entry: Entry, tensor: Array) -> list[Array]:
    """Return the variables of one entry, the inverse of `derive`: one array for each of its `sources`.

    Args:
        entry: how the tensor was made.
        tensor: its values; any array for a folded bias, which has no tensor and comes back as zeros.
    """
    return entry.op.revert(tensor, [entry.shape] * len(entry.sources))


def _mismatched(needed: Mapping[str, Shape], found: Mapping[str, str]) -> dict[str, str]:
    return {
        name: f"{found[name]}; expected {shape}"
        for name, shape in needed.items()
        if name in found and found[name] != str(shape)
    }


def _stored_shape(info: VariableInfo) -> str:
    return str(info.shape) if info.dtype in FLOATING else f"{info.shape} of dtype {info.dtype}"


def _ignored(variables: Mapping[str, VariableInfo], plan: Plan) -> dict[str, str]:
    """Return {name: written reason} of the variables that do not belong to the model, by the table or by a rule."""
    reasons: dict[str, str] = {}
    slots: dict[str, str] = {}
    scopes: dict[str, str] = {}
    for template, reason in plan.ignored:
        if template.endswith("/"):
            scopes[template] = reason
        elif template.startswith("{variable}/"):
            slots[template.format(variable="X")] = reason
        elif "{variable}" in template:
            reasons.update({template.format(variable=variable): reason for variable in plan.variables})
        else:
            reasons[template] = reason
    for copy, names in unknown_copies(variables, plan).items():
        reasons.update(dict.fromkeys(names, f"another copy of the variables, under the unknown name {copy}"))
    network = {name.split("/")[0] for name in plan.variables}
    ignored = {}
    for name, info in variables.items():
        scope = next((scope for scope in scopes if f"{name}/".startswith(scope)), "")
        if why := reasons.get(name) or slots.get(copy_of(name, plan)[1]) or scopes.get(scope):
            ignored[name] = why
        elif (not info.shape) + (info.dtype not in FLOATING) + (name.split("/")[0] not in network) >= 2:
            ignored[name] = STATE
    return ignored
