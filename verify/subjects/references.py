"""The TensorFlow side: a reference on the variables of one copy of a checkpoint."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from numpy.typing import NDArray

from converter.conversion import Preparation
from converter.identify.families import BACKBONE
from verify.errors import ParityError
from verify.reference.base import Reference
from verify.reference.meta_graph import GraphReference, find_meta_graph
from verify.reference.network import TensorFlowReference
from verify.results import DType

ReferenceKind = Literal["built-in", "graph"]


class StoredVariables(Mapping[str, NDArray[Any]]):
    """The variables of one view by their TensorFlow names, read when asked for."""

    def __init__(self, preparation: Preparation) -> None:
        self._source, self._stored = preparation.source, preparation.view.stored

    def __getitem__(self, name: str) -> NDArray[Any]:
        return self._source.read(self._stored[name])

    def __contains__(self, name: object) -> bool:
        return name in self._stored  # the inherited method would read the variable

    def __iter__(self) -> Iterator[str]:
        return iter(self._stored)

    def __len__(self) -> int:
        return len(self._stored)


def build_reference(preparation: Preparation, kind: ReferenceKind, dtype: DType) -> Reference:
    """Build a TensorFlow reference on the variables of a preparation.

    Raises:
        ParityError: The graph is wanted, and there is none, or not in this dtype.
    """
    variables, config = StoredVariables(preparation), preparation.settings.config
    if kind == "built-in":
        return TensorFlowReference(config, variables, dtype, preparation.family is BACKBONE)
    prefix = getattr(preparation.source, "prefix", None)
    meta = find_meta_graph(prefix) if prefix is not None else None
    if meta is None:
        raise ParityError(f"{preparation.source.path} has no .meta beside it: use the built-in reference")
    if dtype != "float32":
        raise ParityError(f"{meta.name} computes in float32: add --dtype float32")
    return GraphReference(meta, config, variables)
