"""What the layers of a graph show: activation, residual heads, order of pool and convolution, separable convolutions.

Source: the official code's `efficientdet_keras`, `efficientdet_arch` and `utils.activation_fn`, and the graphs that
TensorFlow makes of them.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from functools import partial

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
from converter.readers.tensorflow.graphs.nodes import Graph, Node

ACTIVATIONS = (
    Rule("swish", ("Sigmoid", "Mul")),
    Rule("swish", ("swish_f32",)),  # a function of the first versions of TensorFlow
    Rule("swish", ("Silu",)),
    Rule("relu6", ("Relu6",)),
    Rule("relu", ("Relu",)),
    Rule("hswish", ("Relu6", "Add", "Mul", "RealDiv")),
    Rule("mish", ("Softplus", "Tanh", "Mul")),
    Rule("srelu", ("Log", "Select", "Greater", "Mul", "Sub"), None),
)
_HEADS = ("class_net", "box_net")
_SRELU = "srelu"  # the only activation with a scope of its own
_POOL = "MaxPool"
_LAYER = re.compile(r"(?:class|box)-(\d+|predict)(?:_\d+)?")
_NORM = re.compile(r"(?:class|box)-(\d+)-bn-\d+(?:_\d+)?")
_PREDICT = "predict"


def layer_evidence(graph: Graph) -> Iterator[Finding]:
    """Yield what every layer shows."""
    yield from _activations_in_scopes(graph)
    yield from _heads(graph)
    yield from _pool_orders(graph)


def _activations_in_scopes(graph: Graph) -> Iterator[Finding]:
    """The stem and the BiFPN's nodes: their scopes hold layers with scopes of their own, and the activation."""
    scopes = defaultdict[str, list[str]](list)
    for name, node in graph.nodes.items():
        depth = {"stem": 1, "fpn_cells": 4}.get(node.place[0]) if node.place else None
        if depth and len(node.place) > depth and (depth == 1 or node.place[3].startswith("op_after_combine")):
            inner = node.place[depth:]
            if len(inner) == 1 or inner[0].startswith(_SRELU):
                scopes[name.rsplit("/", len(inner))[0]].append(name)
    for names in scopes.values():
        yield from recognise("act_type", graph, names, ACTIVATIONS)


def _heads(graph: Graph) -> Iterator[Finding]:
    """Every convolution of the heads, and what lies between it and the batch norms before it."""
    convolutions = list(_head_convolutions(graph))
    repeats = 1 + max((number for _, number in convolutions if number is not None), default=0)
    for name, number in convolutions:
        node = graph.nodes[name]
        if number is not None:
            yield Finding("separable_conv", node.operation != "Conv2D", name)
        position = repeats if number is None else number
        between, leaves = walk(graph, node.inputs[0], partial(_is_between_layers, head=node.place[0]))
        norms = {int(found[1]) for leaf in leaves if (found := _match(_NORM, node_of(graph, leaf)))}
        if not between or max(norms, default=-1) != position - 1:
            continue  # the first convolution, or not the official structure
        if position == 1:
            yield from recognise("act_type", graph, between, ACTIVATIONS)
        else:  # a residual adds what an earlier repeat gave
            yield Finding("survival_prob", len(norms) > 1, between[0])


def _head_convolutions(graph: Graph) -> Iterator[tuple[str, int | None]]:
    """Yield (first convolution of a layer, its number; None for the prediction)."""
    for name, node in graph.nodes.items():
        if (layer := _match(_LAYER, node)) and begins_layer(graph, node, depth=2):
            yield name, None if layer[1] == _PREDICT else int(layer[1])


def _match(pattern: re.Pattern[str], node: Node) -> re.Match[str] | None:
    """Match the part of a name that says which layer of a head a node belongs to."""
    return pattern.fullmatch(node.place[1]) if len(node.place) > 2 and node.place[0] in _HEADS else None


def _is_between_layers(node: Node, head: str) -> bool:
    return node.place[:1] == (head,) and not (_match(_LAYER, node) or _match(_NORM, node))


def _pool_orders(graph: Graph) -> Iterator[Finding]:
    """Where a level is made smaller and gets other channels: which of the two comes first."""
    for name, node in graph.nodes.items():
        scope = resample_scope(node)
        if not scope or node.operation not in (_POOL, "Conv2D") or not node.inputs:
            continue
        before, _ = walk(graph, node.inputs[0], partial(_is_in_scope, scope=scope))
        expected = {_POOL: "Conv2D", "Conv2D": _POOL}[node.operation]
        if expected in operations(graph, before):
            yield Finding("conv_after_downsample", node.operation != _POOL, name)


def _is_in_scope(node: Node, scope: tuple[str, ...]) -> bool:
    return resample_scope(node) == scope
