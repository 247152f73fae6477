"""A family of networks: everything that is known of one kind of network, in one place.

The engine reads tables, expands and applies them. What a table's names can stand for, which questions recognise a
network and how the answers become a config is the family's. `converter/identify/families.py` lists all families.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Protocol

from converter.errors import MappingError
from converter.plan.expand import Axes, Config, Plan, Values, expand
from converter.plan.table import Table
from converter.source import VariableSource


class Architecture(Protocol):
    """What names and shapes show of a network."""

    def describe(self) -> str:
        """Return the architecture in words."""

    def variants(self) -> list[str]:
        """Return the published networks that have this architecture."""


@dataclass(frozen=True)
class Request:
    """What the user asks for, apart from the source's names and shapes.

    Attributes:
        source: where a `config.yaml` may lie; its path can distinguish variants that share their shapes.
        variant: `--variant`: a check, and the choice between variants that share their shapes.
        hparams: `--hparams`: official syntax, the name of a YAML file, or names and values.
        redundant_bias: whether the result keeps the biases in front of batch norms.
    """

    source: VariableSource
    variant: str | None = None
    hparams: str | Mapping[str, Any] | None = None
    redundant_bias: bool = False


@dataclass(frozen=True)
class Settings:
    """A config, and where each of its values came from.

    Attributes:
        config: of the family's own type.
        origins: {field: "names and shapes", the name of a file, "--hparams" or "variant default"}.
        notes: what the user should know about a choice.
    """

    config: Any
    origins: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def keeping_biases(self) -> Settings:
        """Return the same settings for a result that keeps the biases in front of batch norms."""
        return replace(self, config=self.config.keeping_biases())


@dataclass(frozen=True)
class Family:
    """One kind of network.

    Attributes:
        name: in words, for example "EfficientDet".
        supported: which networks of the family can be converted, in words.
        load: reads the mapping table.
        axes: config -> index sets that the table's groups repeat over.
        constants: config -> quantities that every row may use.
        questions: what the table's `recognition` must answer.
        choices: {placeholder of a `which` rule: names that it can stand for}.
        architecture: answers -> what they show; raises UnsupportedSourceError for a network that is not supported.
        settle: (architecture, request) -> settings; raises ConversionError or UsageError on a contradiction.
        package_notes: config -> how other packages build the model of a bare state_dict, in words.
        to_tensorflow: whether it can be written in TensorFlow's formats.
    """

    name: str
    supported: str
    load: Callable[[], Table]
    axes: Callable[[Any], Axes]
    constants: Callable[[Any], Values]
    questions: Collection[str]
    choices: Mapping[str, Collection[str]]
    architecture: Callable[[Mapping[str, Any]], Architecture]
    settle: Callable[[Any, Request], Settings]
    package_notes: Callable[[Any], Iterable[str]] = lambda _: ()
    to_tensorflow: bool = False

    @cached_property
    def table(self) -> Table:
        """The mapping table.

        Raises:
            MappingError: The table breaks its grammar, or does not answer a question of the family.
        """
        table = self.load()
        for rules in filter(None, (table.recognition, table.state_dict)):
            if unanswered := [name for name in self.questions if name not in rules and name not in self.choices]:
                raise MappingError(f"{table.file}: no rule answers {unanswered[0]!r}, which {self.name} needs")
        return table

    @property
    def own_questions(self) -> list[str]:
        """The questions that only this family's table asks, not one that it includes."""
        return [name for name in self.questions if name not in self.table.included_questions]

    def plan(self, config: Config) -> Plan:
        """Expand the table over a config.

        Raises:
            MappingError: See `expand`.
        """
        return expand(self.table, config, self.axes(config), self.constants(config))
