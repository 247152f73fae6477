"""Frozen graphs (`<model>_frozen.pb`): a GraphDef in which every variable became a constant of the same name.

Source: TensorFlow's `tf.compat.v1.graph_util.convert_variables_to_constants`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from converter.errors import CorruptFileError, UnsupportedSourceError
from converter.identify.naming import ends_like_a_variable, undo_counters
from converter.readers.tensorflow.graphs.evidence import graph_of
from converter.readers.tensorflow.graphs.graph_def import GraphParts, decode_constant, read_graph
from converter.readers.tensorflow.graphs.nodes import GRAPH_DEF
from converter.source import OPTIMIZER_STATE, OTHER_COPY, STEP_COUNT, SourceFacts, VariableSource
from effdet_torch.untrusted.files import map_file

_QUANTISED = ("FakeQuant", "Quantize", "Dequantize", "Requantize")  # how such operations begin
_TF2_RESOURCE = "/ReadVariableOp/resource"
_ONE_COPY = "a frozen graph holds one copy of every variable, the one that it computes with"
_LOST = (OTHER_COPY, OPTIMIZER_STATE, STEP_COUNT)
_ADVICE = "Pass the checkpoint or the SavedModel that it was made from."


class FrozenGraph(VariableSource):
    """The constants of a graph whose names end like those of variables; others (shapes, anchors) are not read."""

    def __init__(self, path: Path) -> None:
        """Find all constants.

        Raises:
            CorruptFileError: The file is damaged or cut off.
            UnsupportedSourceError: The graph is quantised or folded, or the names of its variables are lost.
        """
        folder, graph = path.absolute().parent, graph_of(path, GRAPH_DEF)
        facts = SourceFacts("frozen graph", path, folder, raw_reason=_ONE_COPY, unrecoverable=_LOST, graph=graph)
        try:
            parts = read_graph(map_file(path), _is_wanted)
        except CorruptFileError as error:
            raise CorruptFileError(
                f"{path}: this is a frozen graph, but damaged or cut off: {error}. Download or copy it again."
            ) from error
        if problem := _problem(parts):
            raise UnsupportedSourceError(f"{path}: this is {problem}. {_ADVICE}")
        constants = parts.constants.items()
        found = {name: constant for name, constant in constants if ends_like_a_variable(name, not constant.info.shape)}
        self._constants = {name: found[given] for name, given in undo_counters(found).items()}
        super().__init__(facts, {name: constant.info for name, constant in self._constants.items()})

    def read(self, name: str) -> NDArray[Any]:
        """Return one variable; without a checksum in the file, damaged values cannot be detected."""
        constant = self._constants[name]
        try:
            return decode_constant(constant)
        except CorruptFileError as error:
            raise CorruptFileError(f"{self.path}: {name}: {error}. Download or copy the file again.") from error
        except UnsupportedSourceError as error:
            raise UnsupportedSourceError(f"{self.path}: {name}: {error}. {_ADVICE}") from error


def _is_wanted(name: str) -> bool:
    return ends_like_a_variable(name) or name.endswith(_TF2_RESOURCE)


def _problem(parts: GraphParts) -> str | None:
    """Return what kind of graph this is if it cannot be converted; None if it can."""
    leaves = {name.rsplit("/", 1)[-1] for name in parts.constants}
    if quantised := sorted(operation for operation in parts.operations if operation.startswith(_QUANTISED)):
        return f"a quantised graph (operation {quantised[0]})"
    if any(name.endswith(_TF2_RESOURCE) for name in parts.constants):
        return "a graph frozen by TF2, which names constants after operations: the names of the variables are lost"
    if not leaves:
        return "a graph without constants named like variables (kernel, gamma, ...)"
    if "gamma" not in leaves:
        return "a graph without batch norms: they are folded into the convolutions"
    return None
