"""A family of networks: everything that is specific to one kind of network, in one place.

The engine reads tables, expands and applies them. The family knows what the placeholders of its table stand for, which
questions recognise a network, and how the answers become a config. `converter/identify/families.py` lists all families.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from converter.errors import MappingError
from converter.plan.expand import Axes, Config, Plan, Values, expand
from converter.plan.table import Table
from converter.plan.yaml_nodes import placeholders
from converter.source import VariableSource


class Architecture(Protocol):
    """What names and shapes show of a network."""

    def describe(self) -> str:
        """Return the architecture in words."""

    def variants(self, source: VariableSource | None = None) -> list[str]:
        """Return the published networks that have this architecture, and can be in such a source."""


@dataclass(frozen=True)
class Request:
    """The user's options, and the source that they apply to.

    Attributes:
        source: a `config.yaml` may lie beside it, and its path can distinguish variants that share their shapes.
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
    """A config, and the origin of each of its values.

    Attributes:
        config: of the family's own type.
        origins: {field: "names and shapes", the name of a file, "--hparams" or "variant default"}.
        notes: what the user should know about these values.
        assumed: {hyperparameter: value} of what nothing shows and nobody states.
    """

    config: Any
    origins: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    assumed: Mapping[str, Any] = field(default_factory=dict)

    def keeping_biases(self) -> Settings:
        """Return the same settings, with the biases in front of batch norms kept."""
        return replace(self, config=self.config.keeping_biases())


@dataclass(frozen=True)
class Family:
    """One kind of network.

    Attributes:
        name: in words, for example "EfficientDet".
        supported: which networks of the family can be converted, in words.
        load: reads the mapping table.
        axes: config -> index sets over which the table's groups repeat.
        axes_of_source: the same, where a file beside the source has a say in them; None where none has.
        constants: config -> quantities that every row may use.
        questions: the names of the rules that the table's `recognition` must have.
        open_questions: those that a state_dict cannot answer.
        questions_of_parts: those about parts that a source may lack as a whole: it answers all or none of them.
        choices: {placeholder of a `which` rule: names that can replace it}.
        architecture: answers -> what they show; raises UnsupportedSourceError for an unsupported network.
        settle: (architecture, request) -> settings; raises ConversionError or UsageError on a contradiction.
        package_notes: config -> how to build the model of a bare state_dict with other packages, in words; raises
            UsageError if they cannot.
        not_tensorflow: config -> why it cannot be written in TensorFlow's formats, in words; "" if it can.
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
    open_questions: Collection[str] = ()
    questions_of_parts: Collection[str] = ()
    package_notes: Callable[[Any], Iterable[str]] = lambda _: ()
    axes_of_source: Callable[[Any, VariableSource], Axes] | None = None
    not_tensorflow: Callable[[Any], str] = lambda _: "TensorFlow formats are supported for detectors only"

    _checked: list[Table] = field(default_factory=list, init=False, repr=False, compare=False)  # the last one

    @property
    def table(self) -> Table:
        """The mapping table, checked once: many questions are asked of it.

        Raises:
            MappingError: The table breaks its grammar, does not answer a question of the family, or asks for a choice
                that the family does not have.
        """
        table = self.load()
        if not any(table is known for known in self._checked):
            self._check(table)
            self._checked[:] = [table]
        return table

    def _check(self, table: Table) -> None:
        for rules in filter(None, (table.recognition, table.state_dict)):
            wanted = {name for rule in rules.values() for name in placeholders(str(rule.get("which", "")))}
            if unknown := sorted(wanted - self.choices.keys()):
                raise MappingError(f"{table.file}: {self.name} has no choices for the placeholder {unknown[0]!r}")
            open_in = self.open_questions if rules is table.state_dict else ()
            answered = {*rules, *self.choices, *open_in}
            if unanswered := [name for name in self.questions if name not in answered]:
                raise MappingError(f"{table.file}: no rule answers {unanswered[0]!r}, which {self.name} needs")

    @property
    def own_questions(self) -> list[str]:
        """The questions of this family's table, without those of the table that it includes."""
        return [name for name in self.questions if name not in self.table.included_questions]

    def plan(self, config: Config, source: VariableSource | None = None) -> Plan:
        """Expand the table over a config.

        Args:
            config: of the family's own type.
            source: what is converted, if it is a file of the family.

        Raises:
            MappingError: See `expand`.
            ConfigError: A file beside the source cannot be read.
        """
        axes = (
            self.axes(config) if source is None or self.axes_of_source is None else self.axes_of_source(config, source)
        )
        return expand(self.table, config, axes, self.constants(config))
