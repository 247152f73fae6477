"""The two heads in a graph: for every level the convolutions between a feature and a prediction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from converter.errors import UnsupportedSourceError
from converter.readers.tflite.content.graph import Graph
from converter.readers.tflite.content.schema import Operation
from converter.readers.tflite.walk.backbone import CONV, DEPTHWISE
from converter.readers.tflite.walk.fusion import SUMS

DETECTION = "TFLite_Detection_PostProcess"
PASSING = ("RESHAPE", "CONCATENATION", "LOGISTIC")  # between a prediction and an output
USUAL_ANCHORS = 9
MAX_REPEATS = 100


@dataclass(frozen=True)
class Chain:
    """A head at one level.

    Attributes:
        repeats: the operations of every repeat: depthwise and pointwise, or one convolution.
        prediction: the operations of the prediction.
        activations: of every repeat.
        is_residual: whether a repeat adds its input.
    """

    repeats: tuple[tuple[Operation, ...], ...]
    prediction: tuple[Operation, ...]
    activations: tuple[str, ...]
    is_residual: bool

    @property
    def output(self) -> int:
        """The tensor with the prediction."""
        return self.prediction[-1].outputs[0]


def find_predictions(graph: Graph) -> tuple[list[int], dict[int, str]]:
    """Return the tensors with predictions, and {tensor: head} where the detection operation tells the heads apart.

    Raises:
        UnsupportedSourceError: There is an odd number of them, or none.
    """
    heads: dict[int, str] = {}
    ends = list(graph.outputs)
    for operation in graph.operations:
        if operation.kind == DETECTION and len(operation.inputs) > 1:
            for head, tensor in zip(("box", "class"), operation.inputs, strict=False):
                heads |= dict.fromkeys(_back(graph, [tensor]), head)
            ends = list(operation.inputs[:2])
    found = _back(graph, ends)
    if not found or len(found) % 2:
        raise UnsupportedSourceError(
            f"{len(found)} convolutions that give an output; expected two for every level: classes and boxes"
        )
    return found, heads


def _back(graph: Graph, ends: Sequence[int]) -> list[int]:
    """Return the outputs of convolutions that tensors are made of."""
    found, seen, waiting = list[int](), set[int](), list(ends)
    while waiting:
        tensor = waiting.pop(0)
        operation = graph.producer(tensor)
        if tensor in seen or operation is None:
            continue
        seen.add(tensor)
        if operation.kind == CONV:
            found.append(tensor)
        elif operation.kind in PASSING:
            waiting += operation.inputs
    return found


def walk_heads(graph: Graph, features: Mapping[int, int], predictions: Sequence[int]) -> dict[int, list[Chain]]:
    """Return {level: its two heads}.

    Args:
        graph: of the file.
        features: {level: tensor} that the pyramid gives.
        predictions: tensors in which heads end.

    Raises:
        UnsupportedSourceError: A level does not have two heads.
    """
    heads = {}
    for level, feature in features.items():
        chains = [_chain(graph, start, feature, predictions) for start in graph.consumers(feature, DEPTHWISE, CONV)]
        heads[level] = [chain for chain in chains if chain is not None]
        if len(heads[level]) != 2:
            raise UnsupportedSourceError(f"{len(heads[level])} heads at level {level}; expected two: classes and boxes")
    return heads


def _chain(graph: Graph, start: Operation, feature: int, predictions: Sequence[int]) -> Chain | None:
    """Follow a head from its first operation; None if it does not end in a prediction."""
    repeats, activations, is_residual = list[tuple[Operation, ...]](), list[str](), False
    operation = start
    while len(repeats) < MAX_REPEATS:
        layer = _layer(graph, operation)
        output = layer[-1].outputs[0]
        if layer[-1].kind != CONV:
            return None
        if output in predictions:
            return Chain(tuple(repeats), layer, tuple(activations), is_residual)
        after = graph.activated(output)
        repeats.append(layer)
        activations.append(after.name)
        additions = [op for op in graph.consumers(after.tensor, *SUMS) if feature in op.inputs]
        is_residual = is_residual or bool(additions)
        feature = additions[0].outputs[0] if additions else after.tensor
        users = graph.consumers(feature, DEPTHWISE, CONV)
        if len(users) != 1:
            return None
        operation = users[0]
    return None


def _layer(graph: Graph, operation: Operation) -> tuple[Operation, ...]:
    if operation.kind == CONV:
        return (operation,)
    behind = graph.consumers(operation.outputs[0], CONV)
    return (operation, behind[0]) if len(behind) == 1 else (operation,)


def channels(graph: Graph, chain: Chain) -> int:
    """Return how many channels a head predicts."""
    shape = graph.tensor(chain.prediction[-1].inputs[1]).shape
    return shape[0] if len(shape) == 4 else 0


def tell_apart(
    graph: Graph,
    chains: Sequence[Chain],
    by_operation: Mapping[int, str],
    outputs: Sequence[int],
    scopes: Mapping[str, str],
) -> tuple[Mapping[str, Chain], str]:
    """Return {"class" or "box": head} of one level, and how they were told apart.

    Args:
        graph: of the file.
        chains: the two heads.
        by_operation: what the detection operation shows.
        outputs: those of the signature in its order: classes of all levels, then boxes; [] if unknown.
        scopes: {head: the scope of its layers}.

    Raises:
        UnsupportedSourceError: Nothing in the file tells which is which.
    """
    first, second = chains
    for head, other in (("class", "box"), ("box", "class")):
        if by_operation.get(first.output) == head:
            return {head: first, other: second}, "the detection operation"
        if _named(graph, first, scopes) == head and _named(graph, second, scopes) in (other, ""):
            return {head: first, other: second}, "the names of constants"
    if {first.output, second.output} <= set(outputs):
        ordered = sorted(chains, key=lambda chain: list(outputs).index(chain.output))
        return {"class": ordered[0], "box": ordered[1]}, "the order of the signature's outputs"
    boxes = [chain for chain in chains if channels(graph, chain) == 4 * USUAL_ANCHORS]
    if len(boxes) == 1:
        classes = second if boxes[0] is first else first
        return {"box": boxes[0], "class": classes}, f"assuming {USUAL_ANCHORS} anchors at every place"
    raise UnsupportedSourceError(
        f"heads with {channels(graph, first)} and {channels(graph, second)} channels, and neither a detection "
        "operation nor names tell which of them predicts boxes; convert the file that has them"
    )


def _named(graph: Graph, chain: Chain, scopes: Mapping[str, str]) -> str:
    """Return the head that the kernels of a chain are named after; "" if none or both."""
    names = [graph.tensor(op.inputs[1]).name for layer in (*chain.repeats, chain.prediction) for op in layer]
    found = {head for head, scope in scopes.items() if any(scope in name for name in names)}
    return found.pop() if len(found) == 1 else ""
