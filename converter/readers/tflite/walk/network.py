"""All of an EfficientDet in a graph: every folded layer with the indices of its place in the mapping table."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from converter.errors import UnsupportedSourceError
from converter.readers.tflite.content.constants import real_values
from converter.readers.tflite.content.graph import Graph
from converter.readers.tflite.content.schema import Operation
from converter.readers.tflite.walk.backbone import BackboneFound, features_used, require_usual, walk_backbone
from converter.readers.tflite.walk.fusion import require_one
from converter.readers.tflite.walk.heads import DETECTION, Chain, channels, find_predictions, tell_apart, walk_heads
from converter.readers.tflite.walk.pyramid import NodeFound, PyramidFound, walk_pyramid
from converter.readers.tflite.walk.weights import Weights, find_weights

DETECTED = 4  # boxes, classes, scores, their number

Key = frozenset[tuple[str, Any]]  # {(axis of the table, index)}


@dataclass(frozen=True, eq=False)
class Site:
    """A folded layer.

    Attributes:
        operation: a convolution.
        factor: in its kernel and its bias, besides its own.
        base: of a head at another level, the same layer at the finest one.
    """

    operation: Operation
    factor: Any = None
    base: Operation | None = None


@dataclass
class NetworkFound:
    """An EfficientDet in a graph.

    Attributes:
        graph: where it is.
        image: the tensor with the image.
        backbone: its name.
        pyramid: its cells.
        heads: {"class" or "box": {level: head}}.
        told_apart: how the heads were.
        sites: {place: folded layers there, in the order of the table's rows}.
        weights: {place of a node: fusion weights}; empty if the network has none.
        activation: of all layers.
    """

    graph: Graph
    image: int
    backbone: str
    pyramid: PyramidFound
    heads: Mapping[str, Mapping[int, Chain]]
    told_apart: str
    activation: str
    sites: dict[Key, list[Site]] = field(default_factory=dict)
    weights: dict[Key, Weights] = field(default_factory=dict)

    @property
    def detections(self) -> tuple[int, ...]:
        """The tensors with boxes, classes, scores and their number; () if the file makes no detections."""
        found = [operation.outputs for operation in self.graph.operations if operation.kind == DETECTION]
        return found[0] if found and len(found[0]) == DETECTED else ()

    @property
    def anchors(self) -> int:
        """Anchors at every place."""
        return self._channels("box") // 4

    @property
    def classes(self) -> int:
        """Classes of every anchor."""
        return self._channels("class") // self.anchors

    def _channels(self, head: str) -> int:
        return channels(self.graph, self.heads[head][self.pyramid.levels[0]])

    def require_whole_anchors(self) -> None:
        """Check that the heads predict boxes and classes for a whole number of anchors.

        Raises:
            UnsupportedSourceError: They do not.
        """
        boxes, classes = self._channels("box"), self._channels("class")
        if boxes % 4 or not boxes or classes % (boxes // 4):
            raise UnsupportedSourceError(
                f"the box head predicts {boxes} channels (expected anchors x 4) and the class head {classes} (expected "
                "anchors x classes)"
            )

    @property
    def fusion(self) -> str:
        """The official name of the fusion's method."""
        values = [value for weights in self.weights.values() for value in weights.values]
        return "sum" if not values else "channel_fastattn" if any(value.ndim for value in values) else "fastattn"


def key_of(**indices: Any) -> Key:
    """Return the key of a place."""
    return frozenset(indices.items())


def find_network(graph: Graph, image: int, outputs: list[int], scopes: Mapping[str, str]) -> NetworkFound:
    """Find an EfficientDet.

    Args:
        graph: of the file.
        image: the tensor with the image.
        outputs: of the signature, in its order.
        scopes: {head: the scope of its layers in names}.

    Raises:
        UnsupportedSourceError: There is none, or a part of it is ambiguous.
    """
    backbone = walk_backbone(graph, image)
    predictions, by_operation = find_predictions(graph)
    lowest = min(features_used(graph, backbone))
    levels = range(lowest, lowest + len(predictions) // 2)
    pyramid = walk_pyramid(graph, backbone.features, levels)
    found = walk_heads(graph, pyramid.outputs, predictions)
    pairs = {level: tell_apart(graph, pair, by_operation, outputs, scopes) for level, pair in found.items()}
    heads = {head: {level: pair[head] for level, (pair, _) in pairs.items()} for head in ("class", "box")}
    _require_alike(graph, heads)
    nodes = [node for cell in pyramid.cells for node in cell]
    names = {
        *backbone.activations,
        *(node.activation or "none" for node in nodes),
        *(name or "none" for chains in heads.values() for chain in chains.values() for name in chain.activations),
    }
    activation = require_one(names, "the activations")
    network = NetworkFound(graph, image, backbone.name, pyramid, heads, pairs[levels[0]][1], activation)
    network.weights = _weights(graph, pyramid.cells)
    _require_plain(graph, _layers(network))
    network.sites = _sites(network, backbone)
    network.require_whole_anchors()
    return network


def _require_alike(graph: Graph, heads: Mapping[str, Mapping[int, Chain]]) -> None:
    for head, chains in heads.items():
        outlines = {
            (len(chain.repeats), len(chain.prediction), channels(graph, chain), chain.is_residual)
            for chain in chains.values()
        }
        if len(outlines) != 1:
            raise UnsupportedSourceError(
                f"the {head} head differs between levels: (repeats, operations of the prediction, channels, residual) "
                f"are {', '.join(map(str, sorted(outlines)))}"
            )


def _weights(graph: Graph, cells: list[list[NodeFound]]) -> dict[Key, Weights]:
    """Return the weights of all nodes; none if no input of any node has a factor."""
    if not any(item.scales for cell in cells for node in cell for item in node.inputs):
        return {}
    read: Callable[[int], Any] = lambda index: real_values(graph.tensor(index))  # noqa: E731
    return {
        key_of(cell=cell, node=number): find_weights(
            node.inputs, read, lambda index: graph.tensor(index).dtype, f"node {number} of cell {cell}"
        )
        for cell, nodes in enumerate(cells)
        for number, node in enumerate(nodes)
    }


def _layers(network: NetworkFound) -> Iterator[Sequence[Operation]]:
    """Yield the layers of pyramid and heads, each as its operations."""
    if network.pyramid.p6_conv is not None:
        yield (network.pyramid.p6_conv,)
    for node in (node for cell in network.pyramid.cells for node in cell):
        yield from ((item.conv,) for item in node.inputs if item.conv is not None)
        yield node.operations
    for chain in (chain for chains in network.heads.values() for chain in chains.values()):
        yield from chain.repeats
        yield chain.prediction
        if chain.prediction[-1].options["activation"]:
            raise UnsupportedSourceError("an activation behind a prediction")


def _sites(network: NetworkFound, backbone: BackboneFound) -> dict[Key, list[Site]]:
    """Return all folded layers by their places; the one of P6 lies behind the stem, as in the table."""
    sites = defaultdict[Key, list[Site]](list)
    p6 = network.pyramid.p6_conv
    sites[key_of()] = [Site(backbone.stem), *([] if p6 is None else [Site(p6)])]
    for flat, block in enumerate(backbone.blocks):
        sites[key_of(flat=flat)] = [Site(operation) for operation in block.operations]
    for cell, nodes in enumerate(network.pyramid.cells):
        for number, node in enumerate(nodes):
            weights = network.weights.get(key_of(cell=cell, node=number))
            for position, item in enumerate(node.inputs):
                if item.conv is not None:
                    factor = None if weights is None else weights.folded.get(position)
                    sites[key_of(cell=cell, node=number, position=position)] = [Site(item.conv, factor)]
            sites[key_of(cell=cell, node=number)] = [Site(operation) for operation in node.operations]
    for head, chains in network.heads.items():
        finest = chains[min(chains)]
        sites[key_of(head=head)] = [Site(operation) for operation in finest.prediction]
        for repeat, layer in enumerate(finest.repeats):
            sites[key_of(head=head, repeat=repeat)] = [Site(operation) for operation in layer]
            for level, chain in chains.items():
                here = Site(chain.repeats[repeat][-1], base=layer[-1])
                sites[key_of(head=head, repeat=repeat, level=level)] = [here]
        for chain in chains.values():
            _require_shared(network.graph, head, finest, chain)
    return sites


@np.errstate(all="ignore")
def _require_shared(graph: Graph, head: str, finest: Chain, chain: Chain) -> None:
    """Check that a level has the finest one's depthwise kernels and prediction; other kernels have a gain, see `make`.

    Raises:
        UnsupportedSourceError: They differ.
    """
    pairs = [(one[:-1], other[:-1]) for one, other in zip(finest.repeats, chain.repeats, strict=True)]
    for ours, theirs in (*pairs, (finest.prediction, chain.prediction)):
        for one, other in zip(ours, theirs, strict=True):
            for place in range(1, min(3, len(one.inputs))):
                first, second = one.inputs[place], (*other.inputs, -1)[place]
                if first != second and not _equal(graph, first, second):
                    raise UnsupportedSourceError(
                        f"the {head} head's constant {graph.tensor(second).name[:200]!r} is not the finest level's; an "
                        "EfficientDet's levels share the convolutions of the heads"
                    )


def _equal(graph: Graph, one: int, other: int) -> bool:
    if min(one, other) < 0 or graph.tensor(one).shape != graph.tensor(other).shape:
        return False
    first, second = graph.tensor(one), graph.tensor(other)
    # Each level has its own step for the codes of a bias, and rounds to it.
    steps = sum(float(tensor.scales.max()) if len(tensor.scales) else 0.0 for tensor in (first, second))
    return bool((np.abs(real_values(first) - real_values(second)) <= steps / 2 * (1 + 1e-6)).all())


def _require_plain(graph: Graph, layers: Iterable[Sequence[Operation]]) -> None:
    """Check that the convolutions of pyramid and heads do not move, and nothing lies between those of one layer.

    Raises:
        UnsupportedSourceError: One does.
    """
    for layer in layers:
        for operation in layer:
            require_usual(operation, graph.tensor(operation.inputs[1]).shape, stride=1)
        if fused := [operation for operation in layer[:-1] if operation.options["activation"]]:
            raise UnsupportedSourceError(f"an activation inside of a layer (operation {fused[0].index})")
