"""Initial values for a part of a network that its source lacks, such as the predictions of TF Hub's feature vectors.

The table says which parts may be absent, and what their variables start from. A part of which some variables are stored
is not absent but damaged: the accounting names what is missing.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converter.plan.copies import stored_in
from converter.plan.expand import Entry, Plan
from converter.plan.table import RANDOM, VIEWS
from converter.source import VariableInfo, VariableSource


def with_initial_values(source: VariableSource, plan: Plan) -> VariableSource:
    """Return a source with initial values for every part that it lacks as a whole; itself if it lacks none.

    The values depend on nothing but name, shape and the table: they are the same on every run.
    """
    copies = [
        names
        for view in VIEWS
        if not source.variables.keys().isdisjoint((names := stored_in(source, plan, view)).values())
    ]
    absent: dict[str, Entry] = {}
    parts: list[str] = []
    for part, entries in plan.parts.items():
        variables = [(name, entry) for entry in entries for name in entry.sources]
        added = {names[name]: entry for names in copies for name, entry in variables}
        if source.variables.keys().isdisjoint(added):
            absent |= added
            parts.append(part)
    return _Completed(source, absent, tuple(parts)) if absent else source


class _Completed(VariableSource):
    """A source beside the initial values of what it lacks; close the source itself."""

    def __init__(self, source: VariableSource, absent: Mapping[str, Entry], parts: tuple[str, ...]) -> None:
        super().__init__(replace(source.facts, untrained=(*source.facts.untrained, *parts)))
        self._source, self._absent = source, absent
        self._variables = {
            **source.variables,
            **{name: VariableInfo("float32", entry.shape) for name, entry in absent.items()},
        }

    @property
    def variables(self) -> Mapping[str, VariableInfo]:
        """Those of the source, and the absent ones."""
        return self._variables

    @property
    def initial(self) -> Collection[str]:
        """The absent variables."""
        return self._absent.keys()

    def read(self, name: str) -> NDArray[Any]:
        """Return a stored variable, or its initial values."""
        return _initial(self._absent[name]) if name in self._absent else self._source.read(name)

    def checksum(self, name: str) -> int | None:
        """Return the checksum of a stored variable."""
        return None if name in self._absent else self._source.checksum(name)

    def files(self) -> tuple[Path, ...]:
        """Those of the source."""
        return self._source.files()

    def close(self) -> None:
        """Leave the source open: whoever opened it closes it."""


def _initial(entry: Entry) -> NDArray[np.float32]:
    """Return what the only variable of an entry starts from: one value, or a kernel as PyTorch draws it.

    That is uniform within 1 / sqrt(fan-in) of zero, as in `create_model`; both copies get the same one.
    """
    value = entry.initial
    if value != RANDOM:
        return np.full(entry.shape, value, np.float32)
    (name,) = entry.sources
    limit = 1 / math.sqrt(math.prod(entry.target_shape[1:]))
    stream = np.random.default_rng(zlib.crc32(name.encode()))
    return stream.uniform(-limit, limit, entry.shape).astype(np.float32)
