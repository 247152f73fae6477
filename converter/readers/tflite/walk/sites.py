"""The folded layers of a network by their places, checked to be those of an EfficientDet."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from converter.errors import UnsupportedSourceError
from converter.readers.tflite.content.constants import real_values
from converter.readers.tflite.content.graph import Graph
from converter.readers.tflite.content.schema import Operation
from converter.readers.tflite.walk.backbone import CONV, BackboneFound, require_usual
from converter.readers.tflite.walk.found import Key, NetworkFound, Site, key_of
from converter.readers.tflite.walk.fusion import Input
from converter.readers.tflite.walk.heads import Chain
from converter.readers.tflite.walk.pyramid import NodeFound
from converter.readers.tflite.walk.weights import Weights, find_weights


def node_weights(graph: Graph, cells: list[list[NodeFound]]) -> dict[Key, Weights]:
    """Return the weights of all nodes; none if no input of any node has a factor."""
    if not any(item.scales for cell in cells for node in cell for item in node.inputs):
        return {}
    read: Callable[[int], Any] = lambda index: real_values(graph.tensor(index))  # noqa: E731
    return {
        key_of(cell=cell, node=number): find_weights(
            [replace(item, conv=_holder(graph, item)) for item in node.inputs],
            read,
            lambda index: graph.tensor(index).dtype,
            f"node {number} of cell {cell}",
        )
        for cell, nodes in enumerate(cells)
        for number, node in enumerate(nodes)
    }


def _holder(graph: Graph, item: Input) -> Operation | None:
    """Return the convolution that can hold an input's weight: its own, or one that makes a feature for it alone."""
    source = graph.producer(item.feature)
    if item.conv is not None or item.scales or source is None or source.kind != CONV:
        return item.conv
    return source if graph.uses(item.feature) == 1 and not source.options["activation"] else None


def _factors(network: NetworkFound) -> dict[int, Any]:
    """Return {number of a convolution: the weight that is folded into it}."""
    return {
        holder.index: weights.folded[position]
        for key, weights in network.weights.items()
        for position, item in enumerate(network.node(key).inputs)
        if position in weights.folded and (holder := _holder(network.graph, item)) is not None
    }


def layers_of(network: NetworkFound) -> Iterator[Sequence[Operation]]:
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


def find_sites(network: NetworkFound, backbone: BackboneFound) -> dict[Key, list[Site]]:
    """Return all folded layers by their places; the one of P6 lies behind the stem, as in the table."""
    sites, factors = defaultdict[Key, list[Site]](list), _factors(network)
    p6 = network.pyramid.p6_conv
    sites[key_of()] = [Site(backbone.stem), *([] if p6 is None else [Site(p6)])]
    for flat, block in enumerate(backbone.blocks):
        sites[key_of(flat=flat)] = [Site(operation) for operation in block.operations]
    for cell, nodes in enumerate(network.pyramid.cells):
        for number, node in enumerate(nodes):
            for position, item in enumerate(node.inputs):
                if item.conv is not None:
                    here = Site(item.conv, factors.get(item.conv.index))
                    sites[key_of(cell=cell, node=number, position=position)] = [here]
            operations = node.operations
            sites[key_of(cell=cell, node=number)] = [Site(found, factors.get(found.index)) for found in operations]
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


def require_plain(graph: Graph, layers: Iterable[Sequence[Operation]]) -> None:
    """Check that the convolutions of pyramid and heads do not move, and nothing lies between those of one layer.

    Raises:
        UnsupportedSourceError: One does.
    """
    for layer in layers:
        for operation in layer:
            require_usual(operation, graph.tensor(operation.inputs[1]).shape, stride=1)
        if fused := [operation for operation in layer[:-1] if operation.options["activation"]]:
            raise UnsupportedSourceError(f"an activation inside of a layer (operation {fused[0].index})")
