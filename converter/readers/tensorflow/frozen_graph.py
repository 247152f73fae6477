"""Frozen graphs (`<model>_frozen.pb`): a GraphDef in which every variable became a constant of the same name.

Source: TensorFlow's `tf.compat.v1.graph_util.convert_variables_to_constants`.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from converter.errors import CorruptFileError, UnsupportedSourceError
from converter.identify.naming import ends_like_a_variable, undo_counters
from converter.readers.tensorflow.graph_def import GraphParts, decode_constant, read_graph
from converter.source import VariableInfo, VariableSource

_QUANTISED = ("FakeQuant", "Quantize", "Dequantize", "Requantize")  # how such operations begin
_TF2_RESOURCE = "/ReadVariableOp/resource"
_ADVICE = "Give the checkpoint or the SavedModel that it was made of."


class FrozenGraph(VariableSource):
    """The constants of a graph whose names end like variables; the others (shapes, anchors) belong to the graph."""

    kind = "frozen graph"
    raw_reason = "a frozen graph holds one copy of every variable, the one that it computes with"

    def __init__(self, path: Path) -> None:
        """Read the names and places of all constants.

        Raises:
            CorruptFileError: The file is damaged or cut off.
            UnsupportedSourceError: The graph is quantised, folded, or has lost the names of its variables.
        """
        self.path, self.folder = path, path.absolute().parent
        with path.open("rb") as file:
            is_empty = os.fstat(file.fileno()).st_size == 0  # which mmap refuses
            data = b"" if is_empty else mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        try:
            parts = read_graph(memoryview(data), _is_wanted)
        except CorruptFileError as error:
            raise CorruptFileError(
                f"{path}: this is a frozen graph, but damaged or cut off: {error}. Download or copy it again."
            ) from error
        if problem := _problem(parts):
            raise UnsupportedSourceError(f"{path}: this is {problem}. {_ADVICE}")
        found = parts.constants
        self._constants = {name: found[given] for name, given in undo_counters(found).items()}
        self._variables = {name: constant.info for name, constant in self._constants.items()}

    @property
    def variables(self) -> Mapping[str, VariableInfo]:
        """All constants that were variables, under their names."""
        return self._variables

    def read(self, name: str) -> NDArray[Any]:
        """Return one variable; a GraphDef has no checksum that would tell damaged values."""
        constant = self._constants[name]
        try:
            return decode_constant(constant)
        except CorruptFileError as error:
            raise CorruptFileError(f"{self.path}: {name}: {error}. Download or copy the file again.") from error
        except UnsupportedSourceError as error:
            raise UnsupportedSourceError(f"{self.path}: {name}: {error}. {_ADVICE}") from error

    def files(self) -> tuple[Path, ...]:
        """Return the file."""
        return (self.path,)

    def close(self) -> None:
        """Nothing to do: the file is unmapped when the last array is gone."""


def _is_wanted(name: str) -> bool:
    return ends_like_a_variable(name) or name.endswith(_TF2_RESOURCE)


def _problem(parts: GraphParts) -> str | None:
    """Say in words why a graph cannot be converted; None if it can."""
    leaves = {name.rsplit("/", 1)[-1] for name in parts.constants}
    if quantised := sorted(operation for operation in parts.operations if operation.startswith(_QUANTISED)):
        return f"a quantised graph (operation {quantised[0]})"
    if any(name.endswith(_TF2_RESOURCE) for name in parts.constants):
        return "a graph frozen by TF2, which names constants after operations, so that the variables' names are lost"
    if not leaves:
        return "a graph without constants that are called like variables (kernel, gamma, ...)"
    if "gamma" not in leaves:
        return "a graph without batch norms: they are folded into the convolutions"
    return None
