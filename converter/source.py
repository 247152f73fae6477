"""The one interface behind which every source format looks the same: TensorFlow variable name -> array."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from copy import copy
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from numpy.typing import NDArray

Source = TypeVar("Source", bound="VariableSource")
AVERAGE = "ExponentialMovingAverage"  # the last part of the name of a variable's average
STEP, OPTIMIZER = (
    "global_step",
    "optimizer",
)  # the variable that counts training steps; the scope of an optimizer's state
# What many kinds of source lack, see `SourceFacts.unrecoverable`.
RAW_VALUES, OTHER_COPY = "the raw values", "the other copy of the weights (raw values or averages)"
OPTIMIZER_STATE, STEP_COUNT = "the optimizer's state", "the number of training steps"


@dataclass(frozen=True)
class VariableInfo:
    """Dtype (TensorFlow's name, for example "float32", "bfloat16", "string") and shape of a stored variable."""

    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class GraphEvidence:
    """What a TensorFlow graph shows of the network that it computes; what it does not show clearly is left out.

    Attributes:
        origin: the graph, in words: "graph (model.meta)".
        hparams: hyperparameters with official names and values. `survival_prob` says only whether the heads have
            residuals: the probability itself is not in the graph.
        nodes: {hyperparameter: a node of the graph that shows it}.
        notes: what is not clear, and why.
        shapes: {variable: shape}, as the graph declares them.
    """

    origin: str
    hparams: Mapping[str, Any] = field(default_factory=dict)
    nodes: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class SourceFacts:
    """What is known about a source besides its variables.

    Attributes:
        kind: what the source is, in words: "TF1 checkpoint".
        path: the file or folder that the user named.
        folder: where the files lie, for a `config.yaml` beside them.
        raw_reason: why the raw names are what to convert unless somebody asks for EMA; empty where the averages, if
            there are any, are.
        notes: what else the user should know.
        held_view: "raw" or "ema" where the file says which copy its one copy is; it lies under the raw names.
        is_folded: whether the biases in front of batch norms are zeros because they were folded before.
        takes_config_file: whether a `config.yaml` in the folder belongs to it.
        origins: {field of the config: where its value is from}, as the file itself says.
        provenance: what the file itself says of where it is from, fit for JSON.
        given: (origin, hyperparameters in the official syntax) that the source itself knows, weakest first.
        checksums: the checksums that the files store of their values: "CRC-32C"; empty if they store none.
        unrecoverable: what this kind of source lost of the training that made it, in words: "the optimizer's state".
        untrained: parts of the network that hold initial values, as no source of these weights had them, or as its
            metadata state: "class and box predictions".
        graph: reads the graph that belongs to the source, while it is open, and never fails; None if there is no graph.
    """

    kind: str
    path: Path
    folder: Path
    raw_reason: str = ""
    notes: tuple[str, ...] = ()
    held_view: str | None = None
    is_folded: bool = False
    takes_config_file: bool = True
    origins: Mapping[str, str] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    given: tuple[tuple[str, Mapping[str, Any]], ...] = ()
    checksums: str = ""
    unrecoverable: tuple[str, ...] = ()
    untrained: tuple[str, ...] = ()
    graph: Callable[[], GraphEvidence] | None = field(default=None, compare=False)


class VariableSource(ABC):
    """A readable set of named TensorFlow variables; use it as a context manager.

    Args:
        facts: see `SourceFacts`.
        variables: all stored variables, known without reading any value.
    """

    def __init__(self, facts: SourceFacts, variables: Mapping[str, VariableInfo]) -> None:
        self._facts, self._variables = facts, variables

    @property
    def facts(self) -> SourceFacts:
        """What is known besides the variables."""
        return self._facts

    @property
    def kind(self) -> str:
        """What the source is, in words."""
        return self._facts.kind

    @property
    def path(self) -> Path:
        """The file or folder that the user named."""
        return self._facts.path

    def with_facts(self: Source, facts: SourceFacts) -> Source:
        """Return the same open source with other facts; close only one of the two."""
        other = copy(self)
        other._facts = facts
        return other

    @property
    def variables(self) -> Mapping[str, VariableInfo]:
        """All stored variables, known without reading any value."""
        return self._variables

    @abstractmethod
    def read(self, name: str) -> NDArray[Any]:
        """Return one variable, checked against its checksum where the format has one.

        Numbers come in their own dtype and native byte order; bfloat16, which NumPy lacks, is widened to float32, which
        is exact. Strings come as an object array of bytes. The array may be a read-only view into the file.

        Raises:
            KeyError: No variable has this name.
            CorruptFileError: The bytes are damaged or missing.
        """

    @property
    def initial(self) -> Collection[str]:
        """The variables that nothing stores: those of untrained parts, of which `read` returns the initial values."""
        return ()

    def checksum(self, name: str) -> int | None:
        """Return the CRC-32C of a variable's values, as they lie in the file: little-endian.

        It is known without the data files, and tells equal values from different ones.

        Returns:
            None where the format has none.

        Raises:
            KeyError: No variable has this name.
        """
        return None

    def files(self) -> tuple[Path, ...]:
        """Return the files that hold the variables, for checksums in the result's metadata."""
        return (self.path,)

    def close(self) -> None:  # noqa: B027 - most formats need nothing
        """Let go of open files and temporary folders; a mapped file is unmapped together with the last array."""

    def __enter__(self) -> VariableSource:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class SourceView(VariableSource):
    """An open source seen otherwise: a subclass says what differs. Whoever opened the source closes it.

    Args:
        source: the source itself.
        facts: those of the source, unless they differ.
    """

    def __init__(self, source: VariableSource, facts: SourceFacts | None = None) -> None:
        super().__init__(source.facts if facts is None else facts, source.variables)
        self._source = source

    @property
    def initial(self) -> Collection[str]:
        """Those of the source."""
        return self._source.initial

    def read(self, name: str) -> NDArray[Any]:
        """Return a variable of the source."""
        return self._source.read(name)

    def checksum(self, name: str) -> int | None:
        """Return the checksum of a variable of the source."""
        return self._source.checksum(name)

    def files(self) -> tuple[Path, ...]:
        """Those of the source."""
        return self._source.files()
