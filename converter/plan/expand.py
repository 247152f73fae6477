"""Mapping table x model config -> the plan: every layer, and one entry for every PyTorch tensor.

The index sets ("axes") come from the config, so all names of a variant are known before a checkpoint is opened.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol

from converter.errors import MappingError
from converter.plan.ops import ARRANGED, OPS, Channels, Op, Shape, arranged
from converter.plan.table import DRAWN, Row, Table
from converter.plan.yaml_nodes import Size

MEAN, VARIANCE = ".running_mean", ".running_var"  # the statistics of a batch norm, as PyTorch calls them
Values = Mapping[str, Any]
Axes = Mapping[str, Sequence[Values]]


class Config(Protocol):
    """What the conversion needs to know about the config of any model."""

    @property
    def name(self) -> str:
        """The variant."""

    @property
    def redundant_bias(self) -> bool:
        """Whether the model has the biases in front of batch norms."""

    def keeping_biases(self) -> Config:
        """Return the config of the same model with these biases."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers, strings and lists that JSON can hold."""


@dataclass(frozen=True)
class Layer:
    """A TensorFlow scope and the PyTorch module that holds its variables."""

    tf: str
    torch: str
    kind: str
    indices: Values
    row: Row


@dataclass(frozen=True)
class Entry:
    """One PyTorch tensor and the TensorFlow variables that make it.

    Attributes:
        target: PyTorch key; None for a redundant bias that is folded into another entry's tensor.
        sources: TensorFlow names whose values the inverse of `op` returns.
        shape: TensorFlow shape of each source.
        folds: TensorFlow name of a bias that is folded into this tensor but belongs to another entry.
        initial: what its values are where a source lacks the part that it belongs to: a number, or one of `DRAWN`.
        channels: how TensorFlow's code arranges the channels, where `op` depends on it.
    """

    target: str | None
    op_name: str
    sources: tuple[str, ...]
    shape: Shape
    layer: Layer
    folds: str | None = None
    initial: float | str | None = None
    channels: Channels | None = None

    @property
    def op(self) -> Op:
        """The operation itself."""
        return OPS[self.op_name] if self.channels is None else arranged(self.op_name, self.channels)

    @property
    def inputs(self) -> tuple[str, ...]:
        """TensorFlow names that must be read to make the tensor."""
        return self.sources if self.folds is None else (*self.sources, self.folds)

    @property
    def target_shape(self) -> Shape:
        """Shape of the PyTorch tensor."""
        return self.op.target_shape([self.shape] * len(self.sources))


@dataclass(frozen=True)
class Plan:
    """What a conversion will do, complete before a single weight is read.

    Attributes:
        config: of the family's own type.
        table: the mapping table that was expanded.
        constants: the quantities that every row may use.
        layers: all layers, in the order of the table's rows.
        entries: all tensors, in the order of the layers.
        ignored: (name, reason) of stored variables and scopes that do not belong to the model; `{variable}` stands for
            any of its variables.
    """

    config: Any
    table: Table
    constants: Values
    layers: tuple[Layer, ...]
    entries: tuple[Entry, ...]
    ignored: tuple[tuple[str, str], ...] = ()

    @cached_property
    def variables(self) -> dict[str, Shape]:
        """{TensorFlow name: shape} of everything the plan needs."""
        return {name: entry.shape for entry in self.entries for name in entry.sources}

    @cached_property
    def targets(self) -> dict[str, Entry]:
        """{PyTorch key: entry}; the state_dict of the model, in order."""
        return {entry.target: entry for entry in self.entries if entry.target is not None}

    @cached_property
    def trainable(self) -> frozenset[str]:
        """The TensorFlow names that training changes by gradients: all but the statistics of batch norms."""
        return frozenset(self.variables.keys() - self._sources_of(MEAN) - self.variances)

    @cached_property
    def variances(self) -> frozenset[str]:
        """The TensorFlow names of the variances of batch norms."""
        return self._sources_of(VARIANCE)

    def _sources_of(self, suffix: str) -> frozenset[str]:
        return frozenset(name for key, entry in self.targets.items() if key.endswith(suffix) for name in entry.sources)

    @property
    def parameters(self) -> int:
        """Number of values that training changes by gradients, redundant biases included."""
        return sum(math.prod(self.variables[name]) for name in self.trainable)

    def within(self, scope: str) -> Plan:
        """Return the part of the plan that lies in a TensorFlow scope: "efficientnet-b0"."""
        begin = f"{scope}/"
        return replace(
            self,
            layers=tuple(layer for layer in self.layers if layer.tf.startswith(begin)),
            entries=tuple(entry for entry in self.entries if entry.layer.tf.startswith(begin)),
        )


def expand(table: Table, config: Config, axes: Axes, constants: Values) -> Plan:
    """Expand a table over a config.

    Args:
        table: the rows.
        config: of the model.
        axes: {axis: [{placeholder or quantity: value}]} over which groups repeat.
        constants: {placeholder or quantity: value} that every row may use.

    Raises:
        MappingError: A template uses an unknown axis, placeholder or quantity, or two rows give the same tensor.
    """
    layers: list[Layer] = []
    entries: list[Entry] = []
    for row, place in _places(table, axes, constants):
        layer = Layer(place.filled(row.tf), place.filled(row.torch), row.kind, place.values, row)
        layers.append(layer)
        entries.extend(_entries(table, layer, place, config.redundant_bias))
    _refuse_duplicates([(entry.target, entry) for entry in entries if entry.target is not None])
    _refuse_duplicates([(name, entry) for entry in entries for name in entry.sources])
    _refuse_lost_biases(entries)
    return Plan(config, table, constants, tuple(layers), tuple(entries), tuple(_ignored(table, axes, constants)))


def _ignored(table: Table, axes: Axes, constants: Values) -> Iterator[tuple[str, str]]:
    where = f"{table.file}, ignored"
    for template, reason, axis in table.ignored:
        if axis and axis not in axes:
            raise MappingError(f"{where}: axis {axis!r} does not exist; known are {', '.join(axes)}")
        for values in axes[axis] if axis else [{}]:
            yield _Place({**constants, "variable": "{variable}", **values}, where).filled(template), reason


@dataclass(frozen=True)
class _Place:
    """The values that a row can use at one place of its axes; errors name the row's file and line."""

    values: Values
    where: str

    def filled(self, template: str) -> str:
        """Return a template with its placeholders replaced."""
        try:
            return template.format_map(self.values)
        except KeyError as error:
            known = ", ".join(sorted(self.values))
            raise MappingError(
                f"{self.where}: placeholder {error} in {template!r} is unknown; known are {known}"
            ) from error
        except (AttributeError, ValueError) as error:
            raise MappingError(f"{self.where}: {template!r} is not a valid template ({error})") from error

    def quantity(self, name: str) -> Any:
        """Return the value of a quantity."""
        if name not in self.values:
            known = ", ".join(sorted(self.values))
            raise MappingError(f"{self.where}: {name!r} is an unknown quantity here; known are {known}")
        return self.values[name]

    def size(self, size: Size) -> int:
        """Return a number, or the quantity of a name, which must be a number."""
        value = self.quantity(size) if isinstance(size, str) else size
        if not isinstance(value, int) or isinstance(value, bool):
            raise MappingError(f"{self.where}: {size!r} is {value!r}, which is not a size")
        return value

    def initial(self, row: Row, suffixes: Sequence[str]) -> float | str | None:
        """Return what a tensor with these sources starts from; None if no source may lack it."""
        if row.absence is None:
            return None
        value = row.absence.initial.get(suffixes[0]) if len(suffixes) == 1 else None
        if value is None:
            raise MappingError(f"{self.where}: 'absent' has no initial value for {' and '.join(suffixes) or 'it'}")
        return value if value in DRAWN else float(self.quantity(value))

    def holds(self, condition: str) -> bool:
        """Whether a condition, "name" or "not name", is met; an empty one always is."""
        name = condition.removeprefix("not ")
        return not condition or bool(self.quantity(name)) == (name == condition)


def _places(table: Table, axes: Axes, constants: Values) -> Iterator[tuple[Row, _Place]]:
    """Yield every row with every place at which it applies; the rows of one place stay together."""
    for group in table.groups:
        if unknown := [axis for axis in group.for_each if axis not in axes]:
            raise MappingError(f"{group.where}: axis {unknown[0]!r} does not exist; known are {', '.join(axes)}")
        for parts in itertools.product(*(axes[axis] for axis in group.for_each)):
            values = dict(itertools.chain(constants.items(), *(part.items() for part in parts)))
            if _Place(values, group.where).holds(group.when):
                places = ((row, _Place(values, row.where)) for row in group.rows)
                yield from ((row, place) for row, place in places if place.holds(row.when))


def _entries(table: Table, layer: Layer, place: _Place, keep_redundant_bias: bool) -> Iterator[Entry]:
    row = layer.row
    folds = place.filled(row.folds) or None
    for part in table.kinds[layer.kind]:
        target: str | None = f"{layer.torch}.{part.target}"
        op, folded = part.op, folds if part.op == "fold_bias" else None
        if op == "redundant_bias" and not keep_redundant_bias:
            target = None
        if keep_redundant_bias or (op == "fold_bias" and folds is None):
            op, folded = ("keep" if op in ("fold_bias", "redundant_bias") else op), None
        count = place.size(row.sizes[part.count]) if part.count else 1
        sources = tuple(f"{layer.tf}/{name}" for name in part.numbered(count))
        shape = tuple(place.size(row.sizes[size] if isinstance(size, str) else size) for size in part.shape)
        channels = place.quantity(row.channels) if op in ARRANGED else None
        yield Entry(target, op, sources, shape, layer, folded, place.initial(row, part.sources), channels)


def _refuse_duplicates(names: list[tuple[str, Entry]]) -> None:
    first: dict[str, Entry] = {}
    for name, entry in names:
        if name in first:
            raise MappingError(f"{entry.layer.row.where}: {name} is already defined by {first[name].layer.row.where}")
        first[name] = entry


def _refuse_lost_biases(entries: list[Entry]) -> None:
    """Check that every dropped bias is folded into a batch norm, and that batch norms fold no other variable."""
    folded = {entry.folds: entry for entry in entries if entry.folds is not None}
    dropped = {name: entry for entry in entries if entry.target is None for name in entry.sources}
    for name in folded.keys() ^ dropped.keys():
        where = (folded.get(name) or dropped[name]).layer.row.where
        wrong = "is not folded by any batch norm" if name in dropped else "is not a bias in front of a batch norm"
        raise MappingError(f"{where}: {name} {wrong}")
