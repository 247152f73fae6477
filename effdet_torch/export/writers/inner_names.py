"""Names for inner outputs of a graph: those of the modules that compute them, as `network.model` lists them.

They show where a graph belongs to the network, in any viewer, and OpenVINO keeps them when it converts the graph: so
`effdet-verify` can compare the layers of an exported file one by one.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from effdet_torch.network.model import INNER_OUTPUTS, inner_name

# What the exporter says of a node: the names of the modules around it, outermost first, then its own.
SCOPES = "pkg.torch.onnx.name_scopes"
NETWORK = "model."  # the network is the submodule of this name, of whatever is exported


def name_inner_outputs(graph: Any) -> None:
    """Rename what leaves a module that is listed after the module; graph outputs keep their names.

    Args:
        graph: an `onnx.GraphProto` with the exporter's metadata; it is changed.
    """
    makers = {output: set(_modules(node)) for node in graph.node for output in node.output}
    leaving: dict[str, set[str]] = defaultdict(set)
    for node in graph.node:
        for value in node.input:
            leaving[value] |= makers.get(value, set()) - set(_modules(node))
    kept = {output.name for output in graph.output}
    names, calls = dict[str, str](), defaultdict[str, int](int)
    for value in makers:  # in the order of the nodes, and so of the calls
        for module in leaving[value]:
            if value not in kept:
                names[value] = inner_name(module, calls[module])
            calls[module] += 1
    for node in graph.node:
        for values in (node.input, node.output):
            values[:] = [names.get(value, value) for value in values]
    for info in graph.value_info:
        info.name = names.get(info.name, info.name)


def _modules(node: Any) -> Iterator[str]:
    """Yield the listed modules that a node is part of."""
    for entry in node.metadata_props:
        if entry.key == SCOPES:
            for scope in ast.literal_eval(entry.value):
                name = scope.rpartition(NETWORK)[2]
                if INNER_OUTPUTS.fullmatch(name):
                    yield name
