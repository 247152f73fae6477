"""SavedModels: a folder with `saved_model.pb` and the bundle `variables/variables`, which holds all names."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from converter.formats.file_kind import SAVED_MODEL_FILE
from converter.readers.tensorflow.graphs.evidence import graph_of
from converter.readers.tensorflow.graphs.nodes import SAVED_MODEL
from converter.readers.tensorflow.object_checkpoint import ObjectCheckpoint
from converter.readers.tensorflow.tensorbundle import OBJECT_GRAPH, TensorBundle
from converter.source import OPTIMIZER_STATE, RAW_VALUES, VariableSource

_AVERAGES = "a TF1 SavedModel holds the averages under the raw names; its EMA slots are as they were initialised"
_LOST = (RAW_VALUES, OPTIMIZER_STATE)


def as_saved_model(bundle: TensorBundle, folder: Path) -> VariableSource:
    """Return the variables of a SavedModel under their TF1 names.

    Args:
        bundle: the opened `variables/variables`.
        folder: the SavedModel.

    Raises:
        SourceError: The names of a TF2 SavedModel cannot be read.
    """
    file = folder / SAVED_MODEL_FILE
    facts = replace(bundle.facts, folder=folder, graph=graph_of(file, SAVED_MODEL) if file.is_file() else None)
    if OBJECT_GRAPH in bundle.variables:
        return ObjectCheckpoint(bundle.with_facts(replace(facts, kind="TF2 SavedModel")))
    return bundle.with_facts(replace(facts, kind="TF1 SavedModel", raw_reason=_AVERAGES, unrecoverable=_LOST))
