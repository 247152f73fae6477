"""Mapping table x model config -> the plan: every layer, and one entry for every PyTorch tensor.

The index sets ("axes") come from the config, so all names of a variant are known before a checkpoint is opened.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol

from converter.errors import MappingError
from converter.plan.ops import OPS, Op, Shape
from converter.plan.table import Row, Table
from converter.plan.yaml_nodes import Size

Values = Mapping[str, Any]
Axes = Mapping[str, Sequence[Values]]


class Config(Protocol):
    """What the conversion needs to know of a model's config, whatever the model."""

    @property
    def name(self) -> str:
        """The variant."""

    @property
    def redundant_bias(self) -> bool:
        """Whether the model has the biases in front of batch norms."""

    def keeping_biases(self) -> Config:
        """Return the config of the same model with these biases."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers, strings and lists, fit for JSON."""


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
        target: PyTorch key; None for a redundant bias that is folded elsewhere and so has no tensor of its own.
        sources: TensorFlow names that the inverse of `op` gives back.
        shape: TensorFlow shape of each source.
        folds: TensorFlow name of a bias that takes part in this tensor but belongs to another entry.
    """

    target: str | None
    op_name: str
    sources: tuple[str, ...]
    shape: Shape
    layer: Layer
    folds: str | None = None

    @property
    def op(self) -> Op:
        """The operation itself."""
        return OPS[self.op_name]

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
        config: of the type of the plan's family.
        table: the mapping table that was expanded.
        constants: the quantities that every row may use.
        layers: all layers, in the order of the table's rows.
        entries: all tensors, in the order of the layers.
    """

    config: Any
    table: Table
    constants: Values
    layers: tuple[Layer, ...]
    entries: tuple[Entry, ...]

    @cached_property
    def variables(self) -> dict[str, Shape]:
        """{TensorFlow name: shape} of everything the plan needs."""
        return {name: entry.shape for entry in self.entries for name in entry.sources}

    @cached_property
    def targets(self) -> dict[str, Entry]:
        """{PyTorch key: entry}; the state_dict of the model, in order."""
        return {entry.target: entry for entry in self.entries if entry.target is not None}

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
        axes: {axis: [{placeholder or quantity: value}]} that groups repeat over.
        constants: {placeholder or quantity: value} that every row may use.

    Raises:
        MappingError: A template uses an unknown axis, placeholder or quantity, or two rows give the same tensor.
    """
    layers: list[Layer] = []
    entries: list[Entry] = []
    for row, values in _rows(table, axes, constants):
        layer = _layer(row, values)
        layers.append(layer)
        entries.extend(_entries(table, layer, values, config.redundant_bias))
    _refuse_duplicates([(entry.target, entry) for entry in entries if entry.target is not None])
    _refuse_duplicates([(name, entry) for entry in entries for name in entry.sources])
    _refuse_lost_biases(entries)
    for template, _ in table.ignored:
        _format(template, {**constants, "variable": ""}, f"{table.file}, ignored")
    return Plan(config, table, constants, tuple(layers), tuple(entries))


def _rows(table: Table, axes: Axes, constants: Values) -> Iterator[tuple[Row, Values]]:
    """Yield every row with the values of its place; the rows of one place stay together."""
    for group in table.groups:
        where = group.where
        if unknown := [axis for axis in group.for_each if axis not in axes]:
            raise MappingError(f"{where}: axis {unknown[0]!r} does not exist; known are {', '.join(axes)}")
        for place in itertools.product(*(axes[axis] for axis in group.for_each)):
            values = dict(itertools.chain(constants.items(), *(part.items() for part in place)))
            if _holds(group.when, values, where):
                yield from ((row, values) for row in group.rows if _holds(row.when, values, where))


def _layer(row: Row, values: Values) -> Layer:
    where = row.where
    return Layer(_format(row.tf, values, where), _format(row.torch, values, where), row.kind, values, row)


def _entries(table: Table, layer: Layer, values: Values, keep_redundant_bias: bool) -> Iterator[Entry]:
    where = layer.row.where
    folds = _format(layer.row.folds, values, where) or None
    for part in table.kinds[layer.kind]:
        target: str | None = f"{layer.torch}.{part.target}"
        op, folded = part.op, folds if part.op == "fold_bias" else None
        if op == "redundant_bias" and not keep_redundant_bias:
            target = None
        if keep_redundant_bias or (op == "fold_bias" and folds is None):
            op, folded = ("keep" if op in ("fold_bias", "redundant_bias") else op), None
        sources = tuple(f"{layer.tf}/{name}" for name in part.sources)
        yield Entry(target, op, sources, _shape(part.shape, layer.row.sizes, values, where), layer, folded)


def _shape(shape: tuple[Size, ...], sizes: Mapping[str, Size], values: Values, where: str) -> Shape:
    bound = (sizes[size] if isinstance(size, str) else size for size in shape)
    return tuple(_size(size, values, where) if isinstance(size, str) else size for size in bound)


def _size(name: str, values: Values, where: str) -> int:
    size = _lookup(name, values, where)
    if not isinstance(size, int) or isinstance(size, bool):
        raise MappingError(f"{where}: {name!r} is {size!r}, which is not a size")
    return size


def _holds(condition: str, values: Values, where: str) -> bool:
    if not condition:
        return True
    name = condition.removeprefix("not ")
    return bool(_lookup(name, values, where)) == (name == condition)


def _lookup(name: str, values: Values, where: str) -> Any:
    if name not in values:
        raise MappingError(f"{where}: {name!r} is an unknown quantity here; known are {', '.join(sorted(values))}")
    return values[name]


def _format(template: str, values: Values, where: str) -> str:
    try:
        return template.format_map(values)
    except KeyError as error:
        known = ", ".join(sorted(values))
        raise MappingError(f"{where}: placeholder {error} in {template!r} is unknown; known are {known}") from error
    except (AttributeError, ValueError) as error:
        raise MappingError(f"{where}: {template!r} is not a valid template ({error})") from error


def _refuse_duplicates(names: list[tuple[str, Entry]]) -> None:
    first: dict[str, Entry] = {}
    for name, entry in names:
        if name in first:
            raise MappingError(f"{entry.layer.row.where}: {name} is given by {first[name].layer.row.where} already")
        first[name] = entry


def _refuse_lost_biases(entries: list[Entry]) -> None:
    """A bias may only go where a batch norm takes it in, and a batch norm can only take in such a bias."""
    folded = {entry.folds: entry for entry in entries if entry.folds is not None}
    dropped = {name: entry for entry in entries if entry.target is None for name in entry.sources}
    for name in folded.keys() ^ dropped.keys():
        where = (folded.get(name) or dropped[name]).layer.row.where
        wrong = "is folded by no batch norm" if name in dropped else "is not a bias in front of a batch norm"
        raise MappingError(f"{where}: {name} {wrong}")
