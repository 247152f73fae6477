"""TensorFlow's own graph beside a checkpoint's variables: where it lies, and what is fed to it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from converter.conversion import Preparation
from converter.identify.naming import ends_like_a_variable, undo_counters
from converter.readers.tflite.tflite_file import KIND as TFLITE
from converter.readers.tflite.tflite_file import TfliteFile
from converter.source import VariableSource
from effdet_torch.file_format import sha256
from verify.errors import GraphError
from verify.reference.graph import GraphReference
from verify.reference.graph_network import Outline
from verify.reference.tflite.interpreter import TfliteOutline, TfliteReference
from verify.subjects.references import StoredVariables

# Kind of source -> the file with its graph. A TF2 checkpoint and a Keras file have none.
FILES: Mapping[str, Callable[[Any], Path]] = {
    "TF1 checkpoint": lambda source: source.prefix.with_name(f"{source.prefix.name}.meta"),
    "TF1 SavedModel": lambda source: source.facts.folder / "saved_model.pb",
    "TF2 SavedModel": lambda source: source.facts.folder / "saved_model.pb",
    "frozen graph": lambda source: source.path,
    TFLITE: lambda source: source.path,
}


def find_graph(preparation: Preparation) -> Path | None:
    """Return the file with the graph of a checkpoint; None where there is none."""
    if preparation.source.facts.untrained:  # a graph without a part of the network has other outputs
        return None
    find = FILES.get(preparation.source.kind)
    path = None if find is None else find(preparation.source)
    return path if path is not None and path.is_file() else None


def graph_reference(path: Path, preparation: Preparation) -> GraphReference | TfliteReference:
    """Return the graph of a checkpoint, fed with the copy of its variables that is compared; or a file that runs alone.

    Raises:
        MissingDependencyError: TensorFlow, or what else runs the file, is not installed.
        GraphError: The graph cannot be run.
        ParityError: It is the graph of another network.
    """
    config = preparation.settings.config
    if isinstance(preparation.source, TfliteFile):
        return TfliteReference(path, tflite_outline(preparation.source))
    outline = Outline(config.backbone, tuple(config.levels), config.image_size, config.heads)
    return GraphReference(path, outline, StoredVariables(preparation), _official)


def _official(names: Iterable[str]) -> dict[str, str]:
    return undo_counters(filter(ends_like_a_variable, names))


def made_from(metadata: Mapping[str, Any], source: VariableSource) -> bool:
    """Return whether a file was made from just this source, by the checksums in its metadata."""
    recorded = metadata.get("source", {}).get("files", [])
    checksums = {file.get("sha256") for file in recorded if isinstance(file, Mapping)}
    return bool(checksums & {sha256(path) for path in source.files()})


def tflite_outline(source: TfliteFile) -> TfliteOutline:
    """Return where the network of a TensorFlow Lite file is.

    Raises:
        GraphError: It is in another graph of the file than the one that runs.
    """
    if source.graph_number:
        raise GraphError(f"{source.path.name} holds its network in graph {source.graph_number}; only graph 0 runs")
    network = source.network
    predictions = {
        head: {level: chain.output for level, chain in chains.items()} for head, chains in network.heads.items()
    }
    height, width = network.graph.tensor(network.image).shape[1:3]
    return TfliteOutline(predictions, network.detections, (height, width), source.precision)
