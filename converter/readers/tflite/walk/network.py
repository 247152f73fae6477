"""All of an EfficientDet in a graph: every folded layer with the indices of its place in the mapping table."""

from __future__ import annotations

from collections.abc import Mapping

from converter.errors import UnsupportedSourceError
from converter.readers.tflite.content.graph import Graph
from converter.readers.tflite.walk.backbone import features_used, walk_backbone
from converter.readers.tflite.walk.found import NetworkFound
from converter.readers.tflite.walk.fusion import require_one
from converter.readers.tflite.walk.heads import Chain, channels, find_predictions, tell_apart, walk_heads
from converter.readers.tflite.walk.pyramid import walk_pyramid
from converter.readers.tflite.walk.sites import find_sites, layers_of, node_weights, require_plain


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
    network.weights = node_weights(graph, pyramid.cells)
    require_plain(graph, layers_of(network))
    network.sites = find_sites(network, backbone)
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
