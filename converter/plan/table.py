"""A mapping table as plain values; `grammar` reads one, `expand` applies it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from converter.plan.yaml_nodes import Size

VIEWS = ("raw", "ema")
FILE = "mappings/{}.yaml"
# The keys of the rules of recognition.
PROBES = [
    keys.split() for keys in ("which", "size_of axis", "lowest", "count first", "exists", "exists axes", "matches")
]
WHEN = "when"  # in any rule: the question above it whose answer must be true
LOWEST = "lowest"  # instead of a number as the `first` to count
# Instead of a quantity as what the variables of an absent part start from: TensorFlow's names of distributions.
DRAWN = ("variance_scaling", "glorot_uniform")


@dataclass(frozen=True)
class Part:
    """One tensor of a kind: PyTorch suffix, TensorFlow suffixes, operation, and the TensorFlow shape of each source.

    With a `count`, the letter of a size, there are so many sources: NAME, NAME_1, NAME_2, ...
    """

    target: str
    sources: tuple[str, ...]
    op: str
    shape: tuple[Size, ...]
    count: str = ""

    def numbered(self, count: int) -> list[str]:
        """Return the names of so many sources, numbered as TensorFlow numbers variables of one name."""
        return [f"{name}_{number}" if number else name for number in range(count) for name in self.sources]


@dataclass(frozen=True)
class Absence:
    """That a source may lack all rows of a group: what they are, and {TensorFlow suffix: what its values then are}."""

    part: str
    initial: Mapping[str, str]


@dataclass(frozen=True)
class Row:
    """One layer: TensorFlow scope and PyTorch module (templates), kind, sizes bound to the kind's letters."""

    tf: str
    torch: str
    kind: str
    sizes: Mapping[str, Size]
    when: str
    folds: str  # name of the bias that is folded into this batch norm; "" if there is none
    channels: str  # the quantity that says how the channels are arranged; "" where the kind does not need to know
    where: str  # file and line
    absence: Absence | None = None


@dataclass(frozen=True)
class Group:
    """Rows that repeat over the product of some axes."""

    name: str
    for_each: tuple[str, ...]
    when: str
    rows: tuple[Row, ...]
    where: str


class Ignored(NamedTuple):
    """A stored variable or scope that does not belong to the model, why, and the axis over which it repeats, if any."""

    name: str
    reason: str
    axis: str = ""


@dataclass(frozen=True)
class Table:
    """A mapping table with the table that it includes, checked on its own; `expand` applies it to a model's config.

    Attributes:
        recognition: {question: rule}, including those of the included table.
        included_questions: the questions with a rule in the included table.
        included_module: the PyTorch module under which the included table's rows are.
        state_dict: {question: rule} for a state_dict; empty if the table has none.
        spellings: (regular expression, key): other keys of a state_dict for the same tensors.
    """

    name: str
    version: int
    sha256: str
    kinds: Mapping[str, tuple[Part, ...]]
    groups: tuple[Group, ...]
    views: Mapping[str, str]
    ignored: tuple[Ignored, ...]
    training_step: str
    recognition: Mapping[str, Mapping[str, Size]]
    included_questions: frozenset[str]
    included_module: str
    state_dict: Mapping[str, Mapping[str, Size]]
    spellings: tuple[tuple[str, str], ...] = ()

    def usual_key(self, key: str) -> str:
        """Return the key that this project uses for a tensor that a state_dict may spell otherwise."""
        for pattern, usual in self.spellings:
            key = re.sub(pattern, usual, key)
        return key

    @property
    def file(self) -> str:
        """The file's name in error messages."""
        return FILE.format(self.name)


EMPTY = Table("", 0, "", {}, (), {}, (), "", {}, frozenset(), "", {})
