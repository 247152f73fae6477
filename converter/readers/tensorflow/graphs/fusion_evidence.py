"""What the BiFPN's nodes of a graph show: how they weight their inputs, and which inputs they have.

Source: the official code's `efficientdet_keras.FNode`, `efficientdet_arch.build_bifpn_layer` and `fpn_configs`.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from functools import partial
from typing import Any

from converter.readers.tensorflow.graphs.flow import (
    Finding,
    Rule,
    begins_layer,
    node_of,
    operations,
    recognise,
    resample_scope,
    walk,
)
from converter.readers.tensorflow.graphs.nodes import Graph, Node, attribute, shapes

FUSIONS = (
    Rule("attn", ("Softmax", "Mul", "Sum"), {"Pack"}),
    Rule("fastattn", ("Relu", "RealDiv", "Mul", "Add")),
    Rule("sum", ("Add",)),
)
PER_CHANNEL = "weights of the fusion per channel"  # not a hyperparameter: a part of `fpn_weight_method`
NODES = "nodes of fpn_config"  # a part of `fpn_config`
_FIRST_CELL = ("fpn_cells", "cell_0")
_WEIGHT = "WSM"
_AFTER = re.compile(r"op_after_combine(\d+)")
_HEAD_NORM = re.compile(r"class-\d+-bn-(\d+)")
_FEATURE = re.compile(r"resample_p(\d+)")
_INPUT = re.compile(r"resample_(\d+)_(\d+)_\d+")
_RESIZES = ("MaxPool", "Resize")  # how operations begin that change the size


def fusion_evidence(graph: Graph) -> Iterator[Finding]:
    """Yield what every node shows."""
    scopes = defaultdict[tuple[str, ...], list[str]](list)
    for name, node in graph.nodes.items():
        if _is_weight(node) and len(node.place) == 4:
            attribute_name = "value" if node.operation == "Const" else "shape"  # frozen, or a variable
            if known := shapes(attribute(node.message, attribute_name)):
                yield Finding(PER_CHANNEL, len(known[0]) == 1, name)
        elif _fuses(node, node.place[:3]):
            scopes[node.place[:3]].append(name)
    for names in scopes.values():
        yield from recognise("fpn_weight_method", graph, names, FUSIONS)
    yield from _cell(graph)


def _is_weight(node: Node) -> bool:
    return len(node.place) > 3 and node.place[3].partition("_")[0] == _WEIGHT


def _fuses(node: Node, scope: tuple[str, ...]) -> bool:
    """Whether a node lies in the part of a BiFPN node that weights and adds."""
    inside = len(node.place) > 3 and node.place[:3] == scope and scope[0] == "fpn_cells"
    return inside and not (_is_weight(node) or resample_scope(node) or _AFTER.fullmatch(node.place[3]))


def _activates(node: Node, scope: tuple[str, ...]) -> bool:
    """Whether a node lies between the sum and the convolution of a BiFPN node."""
    inner = node.place[3:]
    is_after = node.place[:3] == scope and len(inner) > 1 and bool(_AFTER.fullmatch(inner[0]))
    return is_after and inner[1] not in ("conv", "bn")


def _cell(graph: Graph) -> Iterator[Finding]:
    """Yield the inputs of all nodes of the first cell; nothing if one of them cannot be followed."""
    heads = (node.place[1] for node in graph.nodes.values() if node.place[:1] == ("class_net",))
    levels = sorted({int(found[1]) for part in heads if (found := _HEAD_NORM.fullmatch(part))})
    roots = dict(_roots(graph))
    if not roots or not levels or sorted(roots) != list(range(len(levels), len(levels) + len(roots))):
        return
    level_of = dict(enumerate(levels))
    nodes: list[dict[str, Any]] = []
    for feature in sorted(roots):
        inputs = _inputs(graph, roots[feature], levels[0])
        same_size = {level_of.get(offset, -1) for offset, is_resized in inputs if not is_resized}
        if len(same_size) != 1 or -1 in same_size:
            return
        (level_of[feature],) = same_size
        nodes.append({"feat_level": level_of[feature], "inputs_offsets": [offset for offset, _ in inputs]})
    yield Finding(NODES, nodes, roots[min(roots)][0])


def _roots(graph: Graph) -> Iterator[tuple[int, tuple[str, tuple[str, ...]]]]:
    """Yield (number of a feature, (its fused tensor, scope of its node)) of the first cell."""
    for node in graph.nodes.values():
        scope, inner = node.place[:3], node.place[3:]
        if scope[:2] == _FIRST_CELL and inner[1:2] == ("conv",) and begins_layer(graph, node, depth=5):
            after = _AFTER.fullmatch(inner[0])
            leaves = set(walk(graph, node.inputs[0], partial(_activates, scope=scope)).leaves)
            if after and len(leaves) == 1:
                yield int(after[1]), (leaves.pop(), scope)


def _inputs(graph: Graph, root: tuple[str, tuple[str, ...]], min_level: int) -> list[tuple[int, bool]]:
    """Return (number of a feature, whether it is resized) of a node's inputs in order; [] if one is unknown."""
    name, scope = root
    found: list[tuple[int, bool]] = []
    for leaf in walk(graph, name, partial(_fuses, scope=scope)).leaves:
        node = node_of(graph, leaf)
        if _is_weight(node) or not node.operation:  # an argument of a function: the weight, too
            continue
        offset = _offset(node, scope, len(found), min_level)
        if offset is None:
            return []
        found.append((offset, node.place[:3] == scope and _resizes(graph, leaf)))
    return found


def _offset(node: Node, scope: tuple[str, ...], position: int, min_level: int) -> int | None:
    """Return the number of the feature that a node's input is, by the scope it comes from."""
    inner = node.place[3] if len(node.place) > 3 else ""
    if node.place[:3] == scope:
        named = _INPUT.fullmatch(inner)
        return int(named[2]) if named and int(named[1]) == position else None
    if node.place[:2] == scope[:2]:
        after = _AFTER.fullmatch(inner)
        return int(after[1]) if after else None
    coarse = _FEATURE.fullmatch(node.place[0]) if node.place else None
    return int(coarse[1]) - min_level if coarse else None


def _resizes(graph: Graph, leaf: str) -> bool:
    """Whether the scope that ends in `leaf` changes the size."""
    scope = resample_scope(node_of(graph, leaf))
    inside, _ = walk(graph, leaf, lambda node: resample_scope(node) == scope)
    return any(operation.startswith(_RESIZES) for operation in operations(graph, inside))
