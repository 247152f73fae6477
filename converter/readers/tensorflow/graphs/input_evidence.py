"""What a graph shows of its input and its anchors: the size of the images, and the constant with all anchors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from converter.errors import SourceError
from converter.formats.protobuf import Message
from converter.readers.tensorflow.graphs.anchor_constant import explain_anchors
from converter.readers.tensorflow.graphs.flow import Finding, node_of, origin
from converter.readers.tensorflow.graphs.graph_def import decode_constant, read_constant
from converter.readers.tensorflow.graphs.nodes import Graph, Node, Shape, attribute, shapes

_SHAPE_ATTRIBUTES = {"Placeholder": "shape", "IteratorGetNext": "output_shapes"}
_COLORS = 3
_MAX_TRANSPOSITIONS = 4
_MIN_ANCHOR_BYTES = 1 << 12  # a constant with all anchors of the smallest images has more


def input_evidence(graph: Graph) -> Iterator[Finding]:
    """Yield the size of the images, and what the anchors show."""
    for name, node in graph.nodes.items():
        if node.place[:1] == ("stem",) and node.operation == "Conv2D" and node.inputs:
            shape, source = _input_shape(graph, node.inputs[0])
            if size := _image_size(shape):
                yield Finding("image_size", size, source)
        elif node.operation == "Const" and len(node.message) >= _MIN_ANCHOR_BYTES and not node.place:
            for hparam, value in _anchors(node, name).items():
                yield Finding(hparam, value, name)


def _input_shape(graph: Graph, reference: str) -> tuple[Shape, str]:
    """Return the static shape of what feeds the stem directly, and its name; () if it is computed."""
    name, index = origin(graph, reference)
    for _ in range(_MAX_TRANSPOSITIONS):  # between NHWC and NCHW
        node = node_of(graph, name)
        if node.operation == "Transpose" and node.inputs:
            name, index = origin(graph, node.inputs[0])
    if name in graph.arguments:
        return graph.arguments[name], name
    node = node_of(graph, name)
    if node.operation not in _SHAPE_ATTRIBUTES:
        return (), name
    known = shapes(attribute(node.message, _SHAPE_ATTRIBUTES[node.operation]))
    return (known[index] if index < len(known) else ()), name


def _image_size(shape: Shape) -> int | str | None:
    """Return the size of a batch of images in either layout as the official code writes it; None if it is open."""
    if len(shape) != 4 or (shape[1] == _COLORS) == (shape[3] == _COLORS):
        return None
    height, width = shape[1:3] if shape[3] == _COLORS else shape[2:]
    if min(height, width) <= 0:
        return None
    return height if height == width else f"{width}x{height}"


def _anchors(node: Node, name: str) -> dict[str, Any]:
    """Return the hyperparameters of the anchors that a constant holds; none if it holds something else."""
    shape = shapes(attribute(node.message, "value"))
    if not shape or len(shape[0]) != 2 or shape[0][1] != 4:
        return {}
    try:
        return explain_anchors(decode_constant(read_constant(Message(node.message), name))) or {}
    except SourceError:
        return {}
