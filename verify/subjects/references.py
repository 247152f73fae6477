"""The TensorFlow side: a reference on the variables of one copy of a checkpoint."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from numpy.typing import NDArray

from converter.conversion import Preparation
from converter.identify.families import BACKBONE
from verify.reference.base import Reference
from verify.reference.network import TensorFlowReference
from verify.results import DType


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


def build_reference(preparation: Preparation, dtype: DType) -> Reference:
    """Build the TensorFlow reference on the variables of a preparation."""
    variables, config = StoredVariables(preparation), preparation.settings.config
    return TensorFlowReference(config, variables, dtype, preparation.family is BACKBONE)
