"""An EfficientDet in a graph, and the places of its folded layers in the mapping table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from converter.errors import UnsupportedSourceError
from converter.readers.tflite.content.graph import Graph
from converter.readers.tflite.content.schema import Operation
from converter.readers.tflite.walk.heads import DETECTION, Chain, channels
from converter.readers.tflite.walk.pyramid import NodeFound, PyramidFound
from converter.readers.tflite.walk.weights import Weights

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

    def node(self, key: Key) -> NodeFound:
        """Return the node at a place."""
        place = dict(key)
        return self.pyramid.cells[int(place["cell"])][int(place["node"])]

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
