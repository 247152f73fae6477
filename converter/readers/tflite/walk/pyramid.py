"""The pyramid in a graph: its features, and for every node the sum, the inputs and the convolution behind it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from converter.errors import UnsupportedSourceError
from converter.readers.tflite.content.graph import Graph
from converter.readers.tflite.content.schema import Operation
from converter.readers.tflite.walk.backbone import CONV, DEPTHWISE
from converter.readers.tflite.walk.fusion import POOL, Input, leaves, require_sampling, sums, trace
from effdet_torch.architecture.backbone import BACKBONE_TOP
from effdet_torch.architecture.pyramid import CELLS, Cell, last_nodes

MAX_CELLS = 100


@dataclass(frozen=True)
class NodeFound:
    """A node: its inputs in official order, the operations behind the sum, and what was seen of its activation."""

    inputs: tuple[Input, ...]
    operations: tuple[Operation, ...]
    output: int
    activation: str
    activates_last: bool


@dataclass
class PyramidFound:
    """The pyramid of a graph.

    Attributes:
        cell_name: "bifpn" or "qufpn".
        levels: of all features.
        p6_conv: the convolution in front of the first level above the backbone's.
        p6_pools_first: whether it comes behind the pool.
        cells: the nodes of every cell.
        outputs: {level: tensor} of the last cell.
    """

    cell_name: str
    levels: range
    p6_conv: Operation | None
    p6_pools_first: bool
    cells: list[list[NodeFound]]
    outputs: dict[int, int]


def walk_pyramid(graph: Graph, backbone: dict[int, int], levels: range) -> PyramidFound:
    """Find all cells between the backbone and the heads.

    Args:
        graph: of the file.
        backbone: {level: feature}.
        levels: of the pyramid.

    Raises:
        UnsupportedSourceError: It is not the pyramid of an EfficientDet.
    """
    features = [backbone[level] for level in levels if level in backbone]
    p6_conv, p6_pools_first = None, False
    for level in levels:
        if level > BACKBONE_TOP:
            tensor, conv, pools_first = _coarser(graph, features[-1])
            if conv is not None and level != BACKBONE_TOP + 1:
                raise UnsupportedSourceError(f"a convolution in front of level {level}")
            p6_conv, p6_pools_first = p6_conv or conv, p6_pools_first or pools_first
            features.append(tensor)
    for name, cell in CELLS.items():
        cells = _cells(graph, features, cell(levels), levels)
        if cells:
            outputs = [cells[-1][offset - len(levels)].output for offset in last_nodes(cell(levels), levels)]
            by_level = dict(zip(levels, outputs, strict=True))
            return PyramidFound(name, levels, p6_conv, p6_pools_first, cells, by_level)
    raise UnsupportedSourceError(
        f"the features of levels {levels[0]} to {levels[-1]} do not enter a pyramid with the nodes of "
        f"{' or '.join(CELLS)}"
    )


def _coarser(graph: Graph, feature: int) -> tuple[int, Operation | None, bool]:
    """Return the next coarser level, the convolution on the way, and whether the pool comes first."""
    for pool in graph.consumers(feature, POOL):
        behind = graph.consumers(pool.outputs[0], CONV)
        require_sampling(pool)
        return (behind[0].outputs[0], behind[0], True) if behind else (pool.outputs[0], None, False)
    for conv in graph.consumers(feature, CONV):
        for pool in graph.consumers(conv.outputs[0], POOL):
            require_sampling(pool)
            return pool.outputs[0], conv, False
    if graph.tensor(feature).shape[1:3] == (1, 1):
        raise UnsupportedSourceError(
            "the image is so small that two levels of the pyramid have one cell each: the graph has no pool between "
            "them, and does not tell them apart. Convert a file for larger images (effdet-export --image-size)"
        )
    raise UnsupportedSourceError("no pooled feature above the backbone's coarsest one, but more levels in the heads")


def _cells(graph: Graph, features: list[int], cell: Cell, levels: range) -> list[list[NodeFound]]:
    """Return as many cells as the graph has; none if it has others than these, or more nodes of the same features."""
    cells: list[list[NodeFound]] = []
    waiting, every = list(sums(graph)), list(features)
    while len(cells) < MAX_CELLS:
        known, nodes = list(features), list[NodeFound]()
        for level, offsets in cell:
            wanted = [known[offset] for offset in offsets]
            size = graph.tensor(features[levels.index(level)]).shape[1:3]
            node = _node(graph, wanted, size, known, waiting)
            if node is None:
                return [] if nodes or any(_inputs(graph, total, every) for total in waiting) else cells
            nodes.append(node)
            known.append(node.output)
        every += known
        cells.append(nodes)
        features = [known[offset] for offset in last_nodes(cell, levels)]
    return []


def _node(
    graph: Graph, wanted: list[int], size: tuple[int, ...], known: list[int], waiting: list[Operation]
) -> NodeFound | None:
    """Return the node of a size (height, width) whose sum takes just the wanted features; None if no waiting sum does.

    Two nodes on different levels may take the same features. Where two on one level do, it does not matter which is
    which: the rest of the cell must fit, and then both ways to call them are the same network.
    """
    for total in waiting:
        if graph.tensor(total.outputs[0]).shape[1:3] != size:
            continue
        found = _inputs(graph, total, known)
        if Counter(item.feature for item in found) != Counter(wanted):
            continue
        waiting.remove(total)
        return _behind(graph, total, _in_order(found, wanted))
    return None


def _inputs(graph: Graph, total: Operation, known: list[int]) -> list[Input]:
    """Return the inputs of a sum; [] if one of them does not come from a known feature."""
    inputs = [trace(graph, leaf, known) for leaf in leaves(graph, total, known)]
    found = [item for item in inputs if item is not None]
    return found if len(found) == len(inputs) else []


def _in_order(found: list[Input], wanted: list[int]) -> tuple[Input, ...]:
    """Return inputs in the order of the wanted features; those of one feature stay in the order of the graph."""
    left, ordered = list(found), []
    for feature in wanted:
        ordered.append(next(item for item in left if item.feature == feature))
        left.remove(ordered[-1])
    return tuple(ordered)


def _behind(graph: Graph, total: Operation, inputs: tuple[Input, ...]) -> NodeFound | None:
    """Return a node with the convolution behind its sum; None if there is none."""
    before = graph.activated(total.outputs[0])
    operations = list[Operation]()
    tensor = before.tensor
    for kind in (DEPTHWISE, CONV):
        if users := graph.consumers(tensor, kind):
            operations.append(users[0])
            tensor = users[0].outputs[0]
    if not operations or operations[-1].kind != CONV:
        return None
    after = graph.activated(tensor)
    name = before.name or after.name
    return NodeFound(inputs, tuple(operations), after.tensor, name, bool(after.name))
