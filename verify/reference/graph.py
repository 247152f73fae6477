"""TensorFlow's own graph as a reference: only the network in it, between the image and the outputs, is run.

All variables are fed, so that what remains is arithmetic on the image; see `graph_network` for what is refused.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from verify.errors import GraphError, InputSizeError, ParityError
from verify.reference.base import Reference, Tap, import_tensorflow
from verify.reference.graph_files import read_graph
from verify.reference.graph_network import NetworkPart, Official, Outline, as_they_are

IMAGES = "effdet_verify_images"


class GraphReference(Reference):
    """A stored graph, fed with variables of one view. Its taps are the predictions; their inputs are not shown.

    Args:
        path: a `.meta` file, `saved_model.pb`, or frozen graph.
        outline: the network that it must hold.
        variables: {TensorFlow variable name: array} of one view (EMA values under the raw names), not folded. A frozen
            graph has values of its own.
        official: chooses the variables among names, and returns {official name: given name}: Keras numbers scopes anew.

    Attributes:
        name: of the file.
        image_size: (height, width) that it was built for.
        notes: what the user should know of the graph.

    Raises:
        MissingDependencyError: TensorFlow is not installed.
        GraphError: The file is damaged, or no inference graph that can be run safely.
        ParityError: It is the graph of another network.
    """

    def __init__(
        self,
        path: Path,
        outline: Outline,
        variables: Mapping[str, NDArray[Any]],
        official: Official = as_they_are,
    ) -> None:
        self._tf, self.name, self._outline = import_tensorflow(), path.name, outline
        network = NetworkPart(read_graph(path), outline, official)
        graph = _import(self._tf, network)
        self._feeds = _values(self._tf, network, graph, variables)
        self._images = graph.get_tensor_by_name(f"{IMAGES}:0")
        self._outputs = network.outputs
        self._session = self._tf.compat.v1.Session(graph=graph)
        batch, *size = _image_shape(self._tf, network)
        self._batch = batch or 1
        self.image_size = _known(size) or outline.image_size
        self.notes = tuple(_notes(size, outline))

    def taps(self, images: NDArray[Any]) -> Iterator[Tap]:
        """Run the graph and yield the predictions; see `Reference.taps`."""
        if images.shape != (1, *self.image_size, 3):
            raise InputSizeError(
                f"images have shape {images.shape}; {self.name} was built for {(1, *self.image_size, 3)}: give one "
                "image of that size"
            )
        try:
            feeds = {self._images: images.repeat(self._batch, axis=0), **self._feeds}
            found = self._session.run(self._outputs, feeds)
        except (self._tf.errors.OpError, ValueError) as error:
            raise GraphError(f"{self.name} does not run: {getattr(error, 'message', error)}") from error
        for scope, outputs in found.items():
            # Officially the levels are built from the finest on; where two have one size, their order decides.
            finest_first = sorted(outputs, key=lambda output: -output.shape[1] * output.shape[2])
            for level, output in zip(self._outline.predictions[scope], finest_first, strict=True):
                yield Tap(scope, level, (), output[:1])

    def describe(self) -> dict[str, str]:
        """Return name, TensorFlow version and settings."""
        return {
            "name": f"TensorFlow's own graph ({self.name})",
            "tensorflow": self._tf.__version__,
            "dtype": "float32",
            "device": "CPU",
            "TF_ENABLE_ONEDNN_OPTS": os.environ.get("TF_ENABLE_ONEDNN_OPTS", ""),
            "image size": "{}x{} (height x width)".format(*self.image_size),
        }


def _import(tf: Any, network: NetworkPart) -> Any:
    """Return a graph of the network alone; images and variables are placeholders.

    Raises:
        GraphError: TensorFlow refuses it.
    """
    name, graph = network.graph.name, tf.Graph()
    given = {network.images: f"{IMAGES}:0"}
    given |= {tensor: f"{variable.name}:0" for tensor, variable in network.variables.items()}
    graph_def = tf.compat.v1.GraphDef(versions=network.graph.graph_def.versions)
    for node in network.nodes.values():
        added = graph_def.node.add()
        added.CopyFrom(node)
        added.input[:] = [given.get(tensor, tensor) for tensor in node.input]
    try:
        with graph.as_default():
            tf.compat.v1.placeholder(tf.float32, (None, None, None, 3), IMAGES)
            inputs = {f"{IMAGES}:0": graph.get_tensor_by_name(f"{IMAGES}:0")}
            for variable in {node.name: node for node in network.variables.values()}.values():
                dtype, shape = tf.as_dtype(variable.attr["dtype"].type), tf.TensorShape(variable.attr["shape"].shape)
                inputs[f"{variable.name}:0"] = tf.compat.v1.placeholder(dtype, shape, variable.name)
            tf.compat.v1.import_graph_def(graph_def, input_map=inputs, name="")
    except (ValueError, TypeError, tf.errors.OpError) as error:
        raise GraphError(f"{name} is damaged: {error}; download it again") from error
    return graph


def _values(
    tf: Any, network: NetworkPart, graph: Any, variables: Mapping[str, NDArray[Any]]
) -> dict[Any, NDArray[Any]]:
    """Return {placeholder: value} of all variables.

    Raises:
        ParityError: A variable is missing or has another shape.
    """
    feeds, problems = {}, []
    for given in {variable.name for variable in network.variables.values()}:
        placeholder, name = graph.get_tensor_by_name(f"{given}:0"), network.official[given]
        value = variables.get(name)
        if value is None or not placeholder.shape.is_compatible_with(value.shape):
            problems.append(f"{name} {placeholder.shape} is " + ("missing" if value is None else f"{value.shape}"))
        else:
            feeds[placeholder] = value.astype(placeholder.dtype.as_numpy_dtype)
    if problems:
        raise ParityError(
            f"{network.graph.name} and the checkpoint are different models: {len(problems)} variables do not fit, "
            f"among the checkpoint's {min(problems)}; choose the files of one model, or add --no-graph"
        )
    return feeds


def _image_shape(tf: Any, network: NetworkPart) -> tuple[int | None, int | None, int | None]:
    """Return batch, height and width of the images that a graph was built for; None what it does not say."""
    graph, stored = tf.Graph(), network.graph
    behind = tf.compat.v1.GraphDef(versions=stored.graph_def.versions, library=stored.graph_def.library)
    behind.node.extend(stored.ancestors([network.images]).values())
    try:
        with graph.as_default():  # shapes only; nothing of it is run
            tf.compat.v1.import_graph_def(behind, name="")
        batch, height, width, _ = graph.get_tensor_by_name(network.images).shape
    except (ValueError, TypeError, KeyError, tf.errors.OpError):
        return None, None, None
    return batch, height, width


def _known(size: list[int | None]) -> tuple[int, int] | None:
    height, width = size
    return None if height is None or width is None else (height, width)


def _notes(size: list[int | None], outline: Outline) -> Iterator[str]:
    height, width = outline.image_size
    if _known(size) is None:
        yield f"The graph does not say its image size; it was run at the file's, {width}x{height}."
    elif _known(size) != outline.image_size:
        yield f"The graph was built for {size[1]}x{size[0]} pixels (width x height), the file for {width}x{height}."
