"""A GraphDef with functions as one flat list of nodes: every call is replaced by the nodes of its function.

Control inputs are left out: they only order side effects, and nothing that has one is ever run.

Source: TensorFlow's `graph.proto` and `function.proto`; in a function a tensor is called "node:output name:number".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

CALLS = ("PartitionedCall", "StatefulPartitionedCall")
MAX_DEPTH, MAX_CALLS, MAX_NODES = 32, 10_000, 1_000_000  # far more than any model has; a circle never ends

Node = Any  # a NodeDef; TensorFlow is imported late and has no type stubs
Rename = Callable[[str], str]  # the name of a tensor where it is used -> "node:output"


def graph_tensor(name: str) -> str:
    """Return "node:output" for a tensor of a graph, whose name leaves out the output 0."""
    return name if ":" in name else f"{name}:0"


class FlatNodes:
    """The nodes of a graph and of the functions that it calls.

    Args:
        tf: the TensorFlow module.
        graph_def: is not changed.

    Attributes:
        nodes: {name: node}, in the order of the graph; inputs are written "node:output", devices are forgotten.

    Raises:
        KeyError: A function or an output that is used does not exist.
        ValueError: The functions call each other without end, or do not fit their calls.
    """

    def __init__(self, tf: Any, graph_def: Any) -> None:
        self._functions = {function.signature.name: function for function in graph_def.library.function}
        self._op_def = tf.Graph().op_def_for_type
        self._meant: dict[str, str] = {}  # an argument or result of a call -> the tensor that it is
        self.nodes: dict[str, Node] = {}
        self._calls = 0
        self._add("", graph_def.node, graph_tensor, 0)
        for node in self.nodes.values():
            node.input[:] = [self.resolve(name) for name in node.input]

    def resolve(self, tensor: str) -> str:
        """Return what a tensor is: an argument of a function is what the call gives, a result what it computes."""
        seen = set[str]()
        while tensor in self._meant and tensor not in seen:
            seen.add(tensor)
            tensor = self._meant[tensor]
        return tensor

    def _add(self, prefix: str, nodes: Iterable[Node], rename: Rename, depth: int) -> None:
        for node in nodes:
            inputs = [rename(name) for name in node.input if not name.startswith("^")]
            called = node.attr["f"].func.name if node.op in CALLS else node.op
            if called in self._functions:
                self._add_function(f"{prefix}{node.name}", self._functions[called], inputs, depth + 1)
                continue
            copy = type(node)()
            copy.CopyFrom(node)
            copy.name, copy.device, copy.input[:] = f"{prefix}{node.name}", "", inputs
            copy.attr.pop("_class", None)  # a hint about other nodes
            self.nodes[copy.name] = copy

    def _add_function(self, call: str, function: Any, inputs: list[str], depth: int) -> None:
        self._calls += 1
        if depth > MAX_DEPTH or self._calls > MAX_CALLS or len(self.nodes) > MAX_NODES:
            raise ValueError("its functions call each other without end")
        names = {name: f"{call}/{name}:0" for name in (arg.name for arg in function.signature.input_arg)}
        self._meant.update(zip(names.values(), inputs, strict=True))
        bodies = {node.name: node for node in function.node_def}

        def rename(name: str) -> str:
            if name in names:
                return names[name]
            node, output, number = name.split(":")
            return f"{call}/{node}:{self._first(bodies[node], output) + int(number)}"

        self._add(f"{call}/", function.node_def, rename, depth)
        for number, result in enumerate(function.signature.output_arg):
            self._meant[f"{call}:{number}"] = rename(function.ret[result.name])

    def _first(self, node: Node, wanted: str) -> int:
        """Return the number of the first tensor of a named output of a node."""
        if node.op in self._functions:
            return [output.name for output in self._functions[node.op].signature.output_arg].index(wanted)
        number = 0
        for output in self._op_def(node.op).output_arg:
            if output.name == wanted:
                return number
            number += _length(output, node)
        raise KeyError(f"{node.name}:{wanted}")


def _length(output: Any, node: Node) -> int:
    """Return how many tensors an output of an operation is."""
    if output.number_attr:
        return int(node.attr[output.number_attr].i)
    return len(node.attr[output.type_list_attr].list.type) if output.type_list_attr else 1
