"""The original graph as a reference: a checkpoint's own `.meta` file, run with the variables of the wanted view.

Nothing of the graph is trusted or kept except what leads from the variables and the image to the layers: savers,
initialisers, input pipelines and summaries are cut away, and operations with side effects are refused.

Source: TensorFlow's MetaGraphDef; the node names are those of the official code's inference graphs.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from effdet_torch.config import EfficientDetConfig
from verify.errors import GraphError, InputSizeError
from verify.reference.base import LayerKey, Reference, Tap, import_tensorflow

INPUT_NODE = "input"
VARIABLE_OPS = ("VarHandleOp", "VariableV2")
STATEFUL_OPS = (*VARIABLE_OPS, "ReadVariableOp")
ADVICE = "use the built-in reference instead"


def find_meta_graph(prefix: Path) -> Path | None:
    """Return the `.meta` file beside a checkpoint prefix such as "efficientdet-d0/model", or None."""
    path = prefix.with_name(f"{prefix.name}.meta")
    return path if path.is_file() else None


class GraphReference(Reference):
    """The graph of a `.meta` file, fed with variables of one view.

    Its taps are the stem, the blocks, the BiFPN nodes, the heads' activations and predictions that the graph names as
    the official code does; their inputs are unknown. All of them are in memory at once.

    Args:
        path: the `.meta` file.
        config: the model that the graph must be.
        variables: {TensorFlow variable name: array} of one view (EMA values under the raw names), not folded.

    Attributes:
        image_size: (height, width) that the graph was built for; None where any size runs.

    Raises:
        MissingDependencyError: TensorFlow is not installed.
        GraphError: The file is missing or damaged, a training graph, another model, or it has side effects.
    """

    def __init__(self, path: Path, config: EfficientDetConfig, variables: Mapping[str, NDArray[Any]]) -> None:
        self._tf, self._path = import_tensorflow(), path
        stored = _read_graph(self._tf, path)
        nodes = {node.name: node for node in stored.node}
        layers = layer_nodes(config, nodes)
        self._nodes = {key: name for key, name in layers.items() if name in nodes}
        self._absent = [name for name in layers.values() if name not in nodes]
        _require_model(path, nodes, config)
        if lost := [name for (_, level), name in layers.items() if level is not None and name not in nodes]:
            raise GraphError(f"{path.name} has no node {lost[0]}: not an EfficientDet's graph, or damaged; {ADVICE}")
        needed = _ancestors(nodes, self._nodes.values())
        graph_def = self._tf.compat.v1.GraphDef(node=needed, versions=stored.versions)
        _require_inference(path, graph_def.node)
        graph = _import_graph(self._tf, path, graph_def)
        self._input = graph.get_tensor_by_name(f"{INPUT_NODE}:0")
        self._session = _load_variables(self._tf, path, graph, variables)

    @property
    def image_size(self) -> tuple[int, int] | None:
        """The (height, width) that the graph was built for; None where any size runs."""
        if self._input.shape.rank is None or None in (size := tuple(self._input.shape[1:3])):
            return None
        return size

    def taps(self, images: NDArray[Any]) -> Iterator[Tap]:
        """Run the graph and yield the layers that it names; see `Reference.taps`."""
        if images.ndim != 4 or not self._input.shape.is_compatible_with(images.shape):
            raise InputSizeError(
                f"images have shape {images.shape}; {self._path.name} was built for {self._input.shape}: give images "
                "of that size, or use the built-in reference, which takes any size"
            )
        fetches = {key: f"{name}:0" for key, name in self._nodes.items()}
        try:
            outputs = self._session.run(list(fetches.values()), {self._input: images})
        except self._tf.errors.OpError as error:
            raise GraphError(f"{self._path.name} does not run: {error.message}; {ADVICE}") from error
        for (scope, level), output in zip(fetches, outputs, strict=True):
            yield Tap(scope, level, (), output)

    def describe(self) -> dict[str, str]:
        """Return name, TensorFlow version and settings."""
        return {
            "name": f"original graph ({self._path.name})",
            "tensorflow": self._tf.__version__,
            "dtype": self._input.dtype.name,
            "device": "CPU",
            "TF_ENABLE_ONEDNN_OPTS": os.environ.get("TF_ENABLE_ONEDNN_OPTS", ""),
            "image size": "{}x{} (height x width)".format(*self.image_size) if self.image_size else "any",
            "layers": f"{len(self._nodes)} of {len(self._nodes) + len(self._absent)}",
            "layers not found": ", ".join(self._absent) or "none",
        }


def layer_nodes(config: EfficientDetConfig, names: Iterable[str]) -> dict[LayerKey, str]:
    """Return {layer: graph node} in execution order, as the official code names the nodes.

    Args:
        config: says which layers there are.
        names: the graph's nodes; a block's last operation depends on them.
    """
    found, backbone, levels = frozenset(names), config.backbone, len(config.levels)
    activation = {"swish": "IdentityN", "relu6": "Relu6"}[config.activation]
    layers: dict[LayerKey, str] = {(f"{backbone}/stem", None): f"{backbone}/stem/{activation}"}
    for flat in range(len(config.blocks)):
        scope = f"{backbone}/blocks_{flat}"
        layers[scope, None] = f"{scope}/Add" if f"{scope}/Add" in found else _last_of(f"{scope}/Identity", found)
    for cell in range(config.fpn_cells):
        for index in range(2 * (levels - 1)):
            scope = f"fpn_cells/cell_{cell}/fnode{index}/op_after_combine{levels + index}"
            layers[scope, None] = f"{scope}/bn/FusedBatchNormV3"
    for head in ("class", "box"):
        for position, level in enumerate(config.levels):
            for repeat in range(config.head_repeats):
                count = position * config.head_repeats + repeat
                layers[f"{head}_net/{head}-{repeat}-bn-{level}-act", None] = _numbered(
                    f"{head}_net/{activation}", count
                )
            scope = f"{head}_net/{head}-predict"
            layers[scope, level] = f"{_numbered(scope, position)}/BiasAdd"
    return layers


def _numbered(name: str, count: int) -> str:
    """Return the name that TensorFlow gives to the `count`-th (from 0) operation called `name`."""
    return f"{name}_{count}" if count else name


def _last_of(name: str, found: frozenset[str]) -> str:
    suffixes = [node.removeprefix(f"{name}_") for node in found if node.startswith(f"{name}_")]
    return _numbered(name, max((int(suffix) for suffix in suffixes if suffix.isdecimal()), default=0))


def _read_graph(tf: Any, path: Path) -> Any:
    from google.protobuf.message import DecodeError  # comes with TensorFlow

    try:
        return tf.compat.v1.MetaGraphDef.FromString(path.read_bytes()).graph_def
    except OSError as error:
        raise GraphError(f"{path.name} cannot be read: {error.strerror}; {ADVICE}") from error
    except DecodeError as error:
        raise GraphError(f"{path.name} is damaged or not a MetaGraphDef; download it again, or {ADVICE}") from error


def _require_model(path: Path, nodes: Mapping[str, Any], config: EfficientDetConfig) -> None:
    """Compare the numbers that tell variants apart with the graph's variables."""
    names = [node.name for node in nodes.values() if node.op in VARIABLE_OPS]
    counts = {
        f"{config.backbone}/blocks_": len(config.blocks),
        "fpn_cells/cell_": config.fpn_cells,
        "class_net/class-": config.head_repeats,
        "class_net/class-0-bn-": len(config.levels),
    }
    for prefix, expected in counts.items():
        numbers = {re.split("[/-]", name.removeprefix(prefix))[0] for name in names if name.startswith(prefix)}
        if (found := sum(number.isdecimal() for number in numbers)) != expected:
            raise GraphError(
                f"{path.name} has {found} of {prefix}N; {config.name} needs {expected}: choose the variant of the "
                f"graph, or {ADVICE}"
            )


def _ancestors(nodes: Mapping[str, Any], names: Iterable[str]) -> list[Any]:
    """Return the nodes that the named ones need, freed from devices and from hints about other nodes."""
    needed: dict[str, Any] = {}
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name in needed or name not in nodes:
            continue  # a node that does not exist is reported by the import
        node = needed[name] = nodes[name]
        node.device = ""
        node.attr.pop("_class", None)
        waiting.extend(item.lstrip("^").split(":")[0] for item in node.input)
    return list(needed.values())


def _require_inference(path: Path, nodes: Iterable[Any]) -> None:
    ops = {node.name: node for node in nodes}
    # TensorFlow's default for a batch norm is training, and files may leave defaults out.
    trains = any(
        node.op.startswith("FusedBatchNorm") and ("is_training" not in node.attr or node.attr["is_training"].b)
        for node in ops.values()
    )
    if trains:
        raise GraphError(
            f"{path.name} is a training graph: its batch norms use the statistics of the batch, so it is no reference; "
            f"{ADVICE}"
        )
    if INPUT_NODE not in ops or not ops[INPUT_NODE].op.startswith("Placeholder"):
        raise GraphError(f"{path.name} has no placeholder {INPUT_NODE!r} for images: not an inference graph; {ADVICE}")


def _import_graph(tf: Any, path: Path, graph_def: Any) -> Any:
    graph = tf.Graph()
    try:
        with graph.as_default():
            tf.compat.v1.import_graph_def(graph_def, name="")
    except (ValueError, tf.errors.OpError) as error:
        raise GraphError(f"{path.name} is damaged: {error}; download it again, or {ADVICE}") from error
    for op in graph.get_operations():
        if op.op_def.is_stateful and op.type not in STATEFUL_OPS:
            raise GraphError(
                f"{path.name} has the operation {op.name} of type {op.type}, which no inference graph needs and which "
                f"may have side effects; {ADVICE}"
            )
    if (found := graph.get_tensor_by_name(f"{INPUT_NODE}:0").dtype) != tf.float32:
        raise GraphError(f"{path.name} takes {found.name} images; a reference takes float32, normalised; {ADVICE}")
    return graph


def _load_variables(tf: Any, path: Path, graph: Any, variables: Mapping[str, NDArray[Any]]) -> Any:
    """Return a session on the graph, all of its variables assigned."""
    feeds, assignments, problems = {}, [], []
    with graph.as_default():
        for op in [op for op in graph.get_operations() if op.type in VARIABLE_OPS]:
            value = variables.get(op.name)
            dtype, shape = tf.as_dtype(op.get_attr("dtype")), tf.TensorShape(op.get_attr("shape"))
            if value is None or not shape.is_compatible_with(value.shape):
                problems.append(f"{op.name} {shape} is " + ("missing" if value is None else f"{value.shape}"))
                continue
            placeholder = tf.compat.v1.placeholder(dtype, value.shape)
            feeds[placeholder] = value.astype(dtype.as_numpy_dtype)
            by_reference = op.type == "VariableV2"
            assign = tf.raw_ops.Assign if by_reference else tf.raw_ops.AssignVariableOp
            assignments.append(assign(**{"ref" if by_reference else "resource": op.outputs[0], "value": placeholder}))
    if problems:
        raise GraphError(
            f"{path.name} and the checkpoint are different models: {len(problems)} variables do not fit, among the "
            f"checkpoint's {problems[0]}; choose the files of one model, or {ADVICE}"
        )
    session = tf.compat.v1.Session(graph=graph)
    session.run(assignments, feeds)
    return session
