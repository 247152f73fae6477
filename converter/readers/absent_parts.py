"""Initial values for a part of a network that its source lacks, such as the predictions of TF Hub's feature vectors.

The table says which parts may be absent, and what their variables start from. A part of which some variables are stored
is not absent but damaged: the accounting names what is missing.
"""

from __future__ import annotations

import math
import zlib
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converter.plan.copies import stored_in
from converter.plan.expand import Entry, Plan
from converter.plan.ops import Shape
from converter.plan.table import DRAWN, VIEWS
from converter.source import SourceView, VariableInfo, VariableSource

Array = NDArray[np.float32]
_CUT_OFF_STD = 0.87962566103423978  # of a normal of variance 1 that is cut off at two sigmas


def with_initial_values(source: VariableSource, plan: Plan) -> VariableSource:
    """Return a source with initial values for every part that it lacks as a whole; itself if it lacks none.

    The values depend on nothing but name, shape and the table: they are the same on every run.
    """
    named = [stored_in(source, plan, view) for view in VIEWS]
    copies = [names for names in named if not source.variables.keys().isdisjoint(names.values())]
    absent: dict[str, Entry] = {}
    parts: list[str] = []
    for part, variables in _parts(plan).items():
        added = {names[name]: entry for names in copies for name, entry in variables}
        if source.variables.keys().isdisjoint(added):
            absent |= added
            parts.append(part)
    return _Completed(source, absent, tuple(parts)) if absent else source


def _parts(plan: Plan) -> dict[str, list[tuple[str, Entry]]]:
    """Return {what it is: (variable, entry)} of the parts that a source may lack as a whole."""
    parts = defaultdict[str, list[tuple[str, Entry]]](list)
    for entry in plan.entries:
        if (absence := entry.layer.row.absence) is not None:
            parts[absence.part] += [(name, entry) for name in entry.sources]
    return parts


class _Completed(SourceView):
    """A source beside the initial values of what it lacks."""

    def __init__(self, source: VariableSource, absent: Mapping[str, Entry], parts: tuple[str, ...]) -> None:
        super().__init__(source, replace(source.facts, untrained=(*source.facts.untrained, *parts)))
        self._absent = absent
        self._variables = {
            **source.variables,
            **{name: VariableInfo("float32", entry.shape) for name, entry in absent.items()},
        }

    @property
    def initial(self) -> Collection[str]:
        """The absent variables."""
        return self._absent.keys()

    def read(self, name: str) -> NDArray[Any]:
        """Return a stored variable, or its initial values."""
        return _initial(self._absent[name]) if name in self._absent else super().read(name)

    def checksum(self, name: str) -> int | None:
        """Return the checksum of a stored variable."""
        return None if name in self._absent else super().checksum(name)


def _initial(entry: Entry) -> Array:
    """Return what the only variable of an entry starts from, as in a new model; both copies start alike."""
    if isinstance(entry.initial, str):
        (name,) = entry.sources
        return _DISTRIBUTIONS[entry.initial](np.random.default_rng(zlib.crc32(name.encode())), entry.shape)
    return np.full(entry.shape, entry.initial, np.float32)


def _variance_scaling(stream: np.random.Generator, shape: Shape) -> Array:
    """Draw from a normal cut off at two sigmas, of variance 1 / fan-in; a depthwise kernel counts all its channels."""
    values = stream.normal(size=shape)
    while (outside := np.abs(values) > 2).any():
        values[outside] = stream.normal(size=np.count_nonzero(outside))
    return (values / math.sqrt(math.prod(shape[:-1])) / _CUT_OFF_STD).astype(np.float32)


def _glorot_uniform(stream: np.random.Generator, shape: Shape) -> Array:
    limit = math.sqrt(6 / (math.prod(shape[:-2]) * (shape[-2] + shape[-1])))
    return stream.uniform(-limit, limit, shape).astype(np.float32)


_DISTRIBUTIONS: Mapping[str, Callable[[np.random.Generator, Shape], Array]] = dict(
    zip(DRAWN, (_variance_scaling, _glorot_uniform), strict=True)
)
