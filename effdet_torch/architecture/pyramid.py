"""The feature pyramid network as data, without torch: which nodes a cell has, and what goes into them.

A cell is a list of nodes, each (level, offsets of its inputs). An offset counts the inputs of the cell first, fine to
coarse, then its nodes in order. The cell gives the last node of every level.

Source: EfficientDet (arXiv:1911.09070) figures 2 and 3; the official code's `fpn_configs`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial

from effdet_torch.architecture.backbone import backbone_channels
from effdet_torch.errors import ConfigError

Cell = tuple[tuple[int, tuple[int, ...]], ...]


@dataclass(frozen=True)
class NodeInput:
    """One input of a node; `position` counts the node's inputs, `offset` is what it is in the cell."""

    position: int
    offset: int
    level: int
    channels: int
    needs_conv: bool  # a 1x1 convolution and a batch norm bring `channels` to the pyramid's
    key: str  # unique in the node: the offset, unless the node takes the same feature twice


@dataclass(frozen=True)
class Node:
    """One node of a cell; `feature` is its own offset, which TensorFlow puts into the variable names."""

    cell: int
    index: int
    level: int
    feature: int
    inputs: tuple[NodeInput, ...]


@cache
def fpn_nodes(graph: Cell, levels: range, backbone: str, channels: int, cells: int) -> tuple[Node, ...]:
    """Return the nodes of all cells in execution order.

    Args:
        graph: the nodes of one cell.
        levels: pyramid levels.
        backbone: its channels decide which inputs of the first cell need a convolution.
        channels: channels inside the pyramid.
        cells: how often the cell is repeated.
    """
    level_of = [*levels, *(level for level, _ in graph)]
    from_backbone = backbone_channels(backbone)

    def node_input(cell: int, offsets: Sequence[int], position: int) -> NodeInput:
        offset = offsets[position]
        comes_from_backbone = cell == 0 and offset < len(levels)
        found = from_backbone.get(level_of[offset], channels) if comes_from_backbone else channels
        key = f"{offset}_{position}" if offset in offsets[:position] else str(offset)
        return NodeInput(position, offset, level_of[offset], found, found != channels, key)

    return tuple(
        Node(
            cell,
            index,
            level,
            len(levels) + index,
            tuple(node_input(cell, offsets, position) for position in range(len(offsets))),
        )
        for cell in range(cells)
        for index, (level, offsets) in enumerate(graph)
    )


def last_nodes(graph: Cell, levels: range) -> list[int]:
    """Return the offset of the last node on every level: what a cell gives, fine to coarse."""
    last = {level: len(levels) + index for index, (level, _) in enumerate(graph)}
    return [last[level] for level in levels]


@cache
def bifpn(levels: range) -> Cell:
    """Return a cell of the BiFPN: top-down, then bottom-up with all earlier features of the level."""
    offsets_of = {level: [offset] for offset, level in enumerate(levels)}
    graph: list[tuple[int, tuple[int, ...]]] = []

    def add(level: int, inputs: list[int]) -> None:
        offsets_of[level].append(len(levels) + len(graph))
        graph.append((level, tuple(inputs)))

    for level in reversed(levels[:-1]):
        add(level, [offsets_of[level][-1], offsets_of[level + 1][-1]])
    for level in levels[1:]:
        add(level, [*offsets_of[level], offsets_of[level - 1][-1]])
    return tuple(graph)


@cache
def qufpn(levels: range, sums_upwards: bool = False) -> Cell:
    """Return a cell of the QuFPN: (top-down, bottom-up) and (bottom-up, top-down) side by side, then their sums.

    A level that a path does not visit keeps its last feature as that path's: the coarsest one on the way down, the
    finest one on the way up.

    Args:
        levels: of the pyramid.
        sums_upwards: number the sums from fine to coarse, as the `effdet` package does, not from coarse to fine.
    """
    low, high = levels[0], levels[-1]
    offsets_of = {level: [offset] for offset, level in enumerate(levels)}
    graph: list[tuple[int, tuple[int, ...]]] = []

    def add(level: int, *inputs: int) -> None:
        offsets_of[level].append(len(levels) + len(graph))
        graph.append((level, inputs))

    def repeat_last(level: int) -> None:
        offsets_of[level].append(offsets_of[level][-1])

    def first(level: int) -> int:
        return offsets_of[level][0]

    def last(level: int) -> int:
        return offsets_of[level][-1]

    for level in reversed(levels[:-1]):
        add(level, last(level), last(level + 1))
    repeat_last(high)
    for level in levels[1:-1]:
        add(level, *offsets_of[level], last(level - 1))
    add(high, first(high), last(high - 1))
    repeat_last(low)
    for level in levels[1:]:
        add(level, first(level), first(low) if level == low + 1 else last(level - 1))
    repeat_last(low)
    for level in reversed(levels[1:-1]):
        add(level, first(level), last(level), last(level + 1))
    add(low, first(low), last(low + 1))
    repeat_last(high)
    for level in levels if sums_upwards else reversed(levels):
        add(level, offsets_of[level][2], offsets_of[level][4])
    return tuple(graph)


# `fpn_name` -> the cell for some levels; the last one is not official.
CELLS: Mapping[str, Callable[[range], Cell]] = {
    "bifpn": bifpn,
    "qufpn": qufpn,
    "qufpn_upwards": partial(qufpn, sums_upwards=True),
}


def require_cell(graph: Cell, levels: range) -> None:
    """Check that the nodes form a cell for these levels.

    Raises:
        ConfigError: A node is on another level, takes a feature that does not exist yet, or takes none; or a level has
            no node.
    """
    for index, (level, offsets) in enumerate(graph):
        if level not in levels:
            raise ConfigError(f"fpn node {index} is on level {level}; expected {levels[0]} to {levels[-1]}")
        if not offsets or not all(0 <= offset < len(levels) + index for offset in offsets):
            raise ConfigError(
                f"fpn node {index} takes the features {list(offsets)}; expected offsets from 0 to "
                f"{len(levels) + index - 1}, at least one"
            )
    if missing := sorted(set(levels) - {level for level, _ in graph}):
        raise ConfigError(f"the fpn has no node on level {missing[0]}; expected one on every level")
