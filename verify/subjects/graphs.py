"""TensorFlow's own graph beside a checkpoint's variables: where it lies, and what is fed to it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from converter.conversion import Preparation
from converter.identify.naming import ends_like_a_variable, undo_counters
from verify.reference.graph import GraphReference
from verify.reference.graph_network import Outline
from verify.subjects.references import StoredVariables

# Kind of source -> the file with its graph. A TF2 checkpoint and a Keras file have none.
FILES: Mapping[str, Callable[[Any], Path]] = {
    "TF1 checkpoint": lambda source: source.prefix.with_name(f"{source.prefix.name}.meta"),
    "TF1 SavedModel": lambda source: source.facts.folder / "saved_model.pb",
    "TF2 SavedModel": lambda source: source.facts.folder / "saved_model.pb",
    "frozen graph": lambda source: source.path,
}


def find_graph(preparation: Preparation) -> Path | None:
    """Return the file with the graph of a checkpoint; None where there is none."""
    if preparation.source.facts.untrained:  # a graph without a part of the network has other outputs
        return None
    find = FILES.get(preparation.source.kind)
    path = None if find is None else find(preparation.source)
    return path if path is not None and path.is_file() else None


def graph_reference(path: Path, preparation: Preparation) -> GraphReference:
    """Return the graph of a checkpoint, fed with the copy of the variables that is compared.

    Raises:
        MissingDependencyError: TensorFlow is not installed.
        GraphError: The graph cannot be run.
        ParityError: It is the graph of another network.
    """
    config = preparation.settings.config
    outline = Outline(config.backbone, tuple(config.levels), config.image_size, config.heads)
    return GraphReference(path, outline, StoredVariables(preparation), _official)


def _official(names: Iterable[str]) -> dict[str, str]:
    return undo_counters(filter(ends_like_a_variable, names))
