"""The sums of a pyramid: what goes into each, by which weights, and through which layers."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from converter.errors import UnsupportedSourceError
from converter.readers.tflite.content.graph import SAME, Graph
from converter.readers.tflite.content.schema import Operation
from converter.readers.tflite.walk.backbone import CONV

POOL, RESIZE = "MAX_POOL_2D", "RESIZE_NEAREST_NEIGHBOR"
SUMS = ("ADD", "ADD_N")
MAX_STEPS = 8  # from a sum back to a feature: two products, a convolution, a pool or a resize
MAX_INPUTS = 64


@dataclass(frozen=True)
class Scale:
    """A constant factor of an input: its tensor, and whether the graph divides by it."""

    constant: int
    divides: bool


@dataclass(frozen=True)
class Input:
    """One input of a sum.

    Attributes:
        feature: the tensor that it is made of.
        scales: factors, the last one in the graph first.
        conv: the convolution that changes its channels.
        pools_first: whether it is pooled or resized before that convolution.
    """

    feature: int
    scales: tuple[Scale, ...]
    conv: Operation | None
    pools_first: bool


def leaves(graph: Graph, total: Operation, known: Collection[int]) -> list[int]:
    """Return the tensors that a sum adds, in order; a known feature is one of them, even if it is a sum."""
    found: list[int] = []
    waiting = list(reversed(total.inputs))
    while waiting and len(found) < MAX_INPUTS:
        tensor = waiting.pop()
        producer = graph.producer(tensor)
        is_sum = producer is not None and producer.kind in SUMS and not producer.options.get("activation", 0)
        if producer is not None and is_sum and tensor not in known:
            waiting += reversed(producer.inputs)
        else:
            found.append(tensor)
    return found


def trace(graph: Graph, tensor: int, known: Collection[int]) -> Input | None:
    """Return how an input comes from a known feature; None if it does not."""
    scales: list[Scale] = []
    conv: Operation | None = None
    sampled = pools_first = False
    for _ in range(MAX_STEPS):
        if tensor in known:
            return Input(tensor, tuple(scales), conv, pools_first)
        operation = graph.producer(tensor)
        if operation is None or operation.options.get("activation", 0):
            return None
        if operation.kind in ("MUL", "DIV") and (constant := _constant(graph, operation)) is not None:
            if conv is not None or sampled:
                return None
            scales.append(Scale(constant, operation.kind == "DIV"))
            tensor = graph.other_input(operation, constant)
        elif operation.kind in (POOL, RESIZE):
            require_sampling(operation)
            sampled, pools_first = True, pools_first or conv is not None
            tensor = operation.inputs[0]
        elif operation.kind == CONV and conv is None:
            conv, tensor = operation, operation.inputs[0]
        else:
            return None
    return None


def require_sampling(operation: Operation) -> None:
    """Check that a feature is pooled or resized as in an EfficientDet.

    Raises:
        UnsupportedSourceError: It is not.
    """
    options = operation.options
    if operation.kind == POOL:
        sides = [(options[f"filter_{side}"], options[f"stride_{side}"]) for side in "hw"]
        usual = all(size == stride + 1 for size, stride in sides) and options["padding"] == SAME
    else:
        usual = not options["align_corners"] and not options["half_pixel_centers"]
    if not usual:
        raise UnsupportedSourceError(
            f"a {operation.kind} (operation {operation.index}) with the options "
            f"{ {name: int(value) for name, value in options.items()} }, which no EfficientDet has"
        )


def sums(graph: Graph) -> Iterator[Operation]:
    """Yield the last addition of every sum, in the order of execution."""
    for operation in graph.operations:
        if operation.kind in SUMS and not graph.consumers(operation.outputs[0], *SUMS):
            yield operation


def _constant(graph: Graph, operation: Operation) -> int | None:
    found = [index for index in operation.inputs if graph.is_constant(index)]
    if len(found) != 1 or (operation.kind == "DIV" and operation.inputs[1:] != (found[0],)):
        return None
    return found[0]


def require_one(names: Collection[str], what: str) -> str:
    """Return what all places of a network have in common.

    Raises:
        UnsupportedSourceError: They differ.
    """
    if len(set(names)) != 1:
        raise UnsupportedSourceError(f"{what} differ within the network: {', '.join(sorted(map(repr, set(names))))}")
    return next(iter(names))
