"""Follow a graph from an operation back to what it computes from, and recognise a computation by its operations."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from typing import Any, NamedTuple

from converter.readers.tensorflow.graphs.nodes import Graph, Node

_CONVOLUTIONS = {"Conv2D", "DepthwiseConv2dNative"}
_PASSED_ON = {"Identity", "IdentityN", "Cast", "Snapshot", "StopGradient", "PreventGradient", "CheckNumerics"}
_VARIABLES = {"VarHandleOp", "VariableV2", "Variable", "ReadVariableOp", "VarIsInitializedOp", "Assign"}
_CALLS = {"PartitionedCall", "StatefulPartitionedCall"}  # of layers whose operations are in functions of their own
_NOT_COMPUTING = {*_PASSED_ON, *_VARIABLES, *_CALLS, "AssignVariableOp", "Const", "NoOp", "Placeholder"}
_SAME = {"AddV2": "Add", "AddN": "Add", "Div": "RealDiv", "SelectV2": "Select"}
_NOTHING = Node((), "", (), memoryview(b""))
_MAX_STEPS = 1000  # of one walk; the longest of real ones, through heads with residuals in training, have 300


class Finding(NamedTuple):
    """A hyperparameter as one place of a graph shows it; `value` is None where the place does not show it clearly."""

    hparam: str
    value: Any
    node: str


class Rule(NamedTuple):
    """A computation by the types of its operations.

    Attributes:
        value: what it is.
        needs: the operations that it must have, the most telling first.
        may_have: others that it may have; None: any.
    """

    value: str
    needs: tuple[str, ...]
    may_have: Set[str] | None = frozenset()

    def fits(self, found: Set[str]) -> bool:
        """Whether operations are this computation."""
        needs = set(self.needs)
        return needs <= found and (self.may_have is None or found <= needs | self.may_have)


class Walk(NamedTuple):
    """Names of what a walk met: nodes inside, and what they get from outside, in the order of the inputs.

    Both are empty if it was too long for a network's.
    """

    inside: list[str]
    leaves: list[str]


def node_of(graph: Graph, name: str) -> Node:
    """Return a node; an empty one for arguments of functions and nodes that were not kept."""
    return graph.nodes.get(name, _NOTHING)


def origin(graph: Graph, reference: str) -> tuple[str, int]:
    """Return the node and the number of its output that a reference means, behind operations that only pass it on."""
    for _ in range(_MAX_STEPS):
        name, _, output = reference.partition(":")
        index = int(number) if (number := output.rpartition(":")[2]).isdecimal() else 0
        node = node_of(graph, name)
        if node.operation not in _PASSED_ON or index >= len(node.inputs):
            return name, index
        reference = node.inputs[index]
    return "", 0  # a circle


def walk(graph: Graph, reference: str, is_inside: Callable[[Node], bool]) -> Walk:
    """Go back from a tensor through everything inside, depth first."""
    found, seen, waiting = Walk([], []), set[str](), [reference]
    for _ in range(_MAX_STEPS):
        if not waiting:
            return found
        name, _ = origin(graph, waiting.pop())
        if not is_inside(node := node_of(graph, name)):
            found.leaves.append(name)
        elif name not in seen:
            seen.add(name)
            found.inside.append(name)
            waiting.extend(item for item in reversed(node.inputs) if not item.startswith("^"))
    return Walk([], [])


def begins_layer(graph: Graph, node: Node, depth: int) -> bool:
    """Whether a node is the first convolution in a scope that has `depth` parts."""
    if node.operation not in _CONVOLUTIONS or not node.inputs:
        return False
    before, _ = origin(graph, node.inputs[0])
    return node_of(graph, before).place[:depth] != node.place[:depth]


def resample_scope(node: Node) -> tuple[str, ...]:
    """Return the scope in which a level is brought to another size and number of channels; () outside of any."""
    for depth, part in enumerate(node.place[:4]):
        if part.startswith("resample_") and depth in (0, 3):
            return node.place[: depth + 1]
    return ()


def operations(graph: Graph, names: Iterable[str]) -> set[str]:
    """Return the types of the operations that compute something, the same under one name in all versions."""
    found = {node_of(graph, name).operation for name in names} - _NOT_COMPUTING
    return {_SAME.get(operation, operation) for operation in found}


def recognise(hparam: str, graph: Graph, names: Sequence[str], rules: Sequence[Rule]) -> Iterator[Finding]:
    """Yield what some nodes compute together, by the first rule that fits; nothing if they compute nothing."""
    found = operations(graph, names)
    for rule in rules:
        if rule.fits(found):
            yield Finding(
                hparam, rule.value, next(name for name in names if rule.needs[0] in operations(graph, [name]))
            )
            return
    if found:
        yield Finding(hparam, None, next(name for name in names if operations(graph, [name])))
