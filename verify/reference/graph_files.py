"""Graphs that TensorFlow stored: read from a file, nothing of them executed.

Source: TensorFlow's `meta_graph.proto`, `saved_model.proto`, `graph.proto`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from effdet_torch.untrusted.files import MAX_MODEL_BYTES, read_bytes
from verify.errors import GraphError
from verify.reference.base import import_tensorflow
from verify.reference.graph_functions import FlatNodes, Node, graph_tensor

DEFAULT_SIGNATURE, SERVING_TAG = "serving_default", "serve"


@dataclass(frozen=True)
class StoredGraph:
    """The nodes of a graph, without functions and control inputs.

    Attributes:
        name: of the file.
        nodes: {name: node}, in the order of the file; inputs are written "node:output".
        graph_def: everything, as it was stored.
    """

    name: str
    nodes: Mapping[str, Node]
    graph_def: Any

    def ancestors(self, tensors: Iterable[str], given: frozenset[str] = frozenset()) -> dict[str, Node]:
        """Return the nodes that compute tensors, in the order of the file.

        Args:
            tensors: "node:output".
            given: tensors that are known, so that nothing behind them is needed.
        """
        needed, waiting = set[str](), list(tensors)
        while waiting:
            tensor = waiting.pop()
            name = node_of(tensor)
            if tensor not in given and name not in needed and name in self.nodes:
                needed.add(name)
                waiting += self.nodes[name].input
        return {name: node for name, node in self.nodes.items() if name in needed}


def node_of(tensor: str) -> str:
    """Return the name of the node in "node:output"."""
    return tensor.rpartition(":")[0]


def read_graph(path: Path) -> StoredGraph:
    """Read the graph of a `.meta` file, of a `saved_model.pb` (what its signature computes), or a frozen graph.

    Raises:
        MissingDependencyError: TensorFlow is not installed.
        GraphError: The file cannot be read, or is damaged.
    """
    tf = import_tensorflow()
    from google.protobuf.message import DecodeError  # comes with TensorFlow

    read = next(read for ending, read in FORMATS.items() if path.name.endswith(ending))
    try:
        graph_def, outputs = read(tf, read_bytes(path, MAX_MODEL_BYTES))
        flat = FlatNodes(tf, graph_def)
    except OSError as error:
        raise GraphError(f"{path.name} cannot be read: {error.strerror}") from error
    except (DecodeError, LookupError, RuntimeError, ValueError) as error:
        raise GraphError(
            f"{path.name} is damaged, or not a graph of TensorFlow ({error}): download it again"
        ) from error
    graph = StoredGraph(path.name, flat.nodes, graph_def)
    if not outputs:
        return graph
    return StoredGraph(path.name, graph.ancestors(flat.resolve(graph_tensor(name)) for name in outputs), graph_def)


def _meta_graph(tf: Any, content: bytes) -> tuple[Any, list[str]]:
    return tf.compat.v1.MetaGraphDef.FromString(content).graph_def, []


def _saved_model(_: Any, content: bytes) -> tuple[Any, list[str]]:
    """Return the graph for serving, and what its signature gives; no outputs where it has no signature."""
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

    metas = SavedModel.FromString(content).meta_graphs
    meta = next((meta for meta in metas if SERVING_TAG in meta.meta_info_def.tags), None) or metas[0]
    signatures = {name: found for name, found in meta.signature_def.items() if not name.startswith("__")}
    chosen = min(signatures, key=lambda name: (name != DEFAULT_SIGNATURE, name), default=None)
    return meta.graph_def, [] if chosen is None else [output.name for output in signatures[chosen].outputs.values()]


def _frozen_graph(tf: Any, content: bytes) -> tuple[Any, list[str]]:
    return tf.compat.v1.GraphDef.FromString(content), []


# How a file's name ends -> what reads it; the first that fits.
FORMATS: Mapping[str, Callable[[Any, bytes], tuple[Any, list[str]]]] = {
    ".meta": _meta_graph,
    "saved_model.pb": _saved_model,
    "": _frozen_graph,
}
