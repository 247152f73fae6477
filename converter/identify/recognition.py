"""Recognise the family of networks that a set of variables belongs to, by the rules of the mapping tables."""

from __future__ import annotations

import bisect
import itertools
import re
from collections.abc import Collection, Iterable, Mapping
from functools import cache
from importlib import resources
from typing import Any

import yaml

from converter.errors import UnsupportedSourceError
from converter.plan.family import Architecture, Family
from converter.plan.table import LOWEST, WHEN
from converter.plan.yaml_nodes import Size, placeholders
from converter.source import VariableInfo, VariableSource
from effdet_torch.errors import listed

Rule = Mapping[str, Size]
LARGEST_NUMBER = 16  # above any pyramid level
FIRST_NAMES, MAX_SHOWN = 3, 200  # names in an error text, and characters of each
UNKNOWN = ("another network", "Check that it is the right file.")


def recognize(source: VariableSource, families: Collection[Family]) -> tuple[Family, Architecture]:
    """Return the family whose questions the variables of a source answer, and what the answers show.

    Args:
        source: only its names and shapes are read, not its values.
        families: the first that fits counts; a family precedes those whose tables it includes.

    Raises:
        UnsupportedSourceError: The source belongs to no family, lacks a part, or its architecture is not supported.
    """
    for family in families:
        rules = family.table.recognition
        probe = Probe(source.variables, family.table.views.values(), family.choices)
        answers = probe.answers({question: rules[question] for question in family.questions})
        if not any(answers.get(question) for question in family.own_questions):
            continue
        absent = [question for question, answer in answers.items() if answer is None]
        if set(absent) == set(family.questions_of_parts):
            absent = []
        if not absent:
            try:
                return family, family.architecture(answers)
            except UnsupportedSourceError as error:
                raise UnsupportedSourceError(f"{source.path}: {error}") from error
        if len(family.own_questions) > 1:  # otherwise it is only a scope of the same name
            raise UnsupportedSourceError(
                f"{source.path}: an incomplete {family.name}, or one with different layers: expected "
                f"{probe.expected(rules[absent[0]])}; found {_found(source.variables)}"
            )
    raise UnsupportedSourceError(_unknown(source, families))


def look_alike(names: Iterable[str]) -> tuple[str, str] | None:
    """Return what a network probably is by its names, and the next step; None if the names give no hint."""
    names = list(names)
    for pattern, what, next_step in _look_alikes():
        if match := next(filter(None, (re.search(pattern, name) for name in names)), None):
            return what.format(match[1]), next_step
    return None


@cache
def _look_alikes() -> list[tuple[str, str, str]]:
    """Return (regular expression, what a network with such a name probably is, next step), the strongest first."""
    text = (resources.files("mappings") / "look_alikes.yaml").read_bytes()
    return [(pattern, what, next_step) for pattern, what, next_step in yaml.safe_load(text)]


def _unknown(source: VariableSource, families: Iterable[Family]) -> str:
    what, next_step = look_alike(source.variables) or UNKNOWN
    supported = "; ".join(family.supported for family in families)
    return (
        f"{source.path}: this {source.kind} holds {_found(source.variables)}. It looks like {what}, which is not "
        f"supported. Supported are {supported}. {next_step}"
    )


def _found(variables: Mapping[str, VariableInfo]) -> str:
    names = sorted(name for name, info in variables.items() if info.shape) or sorted(variables)
    if not names:
        return "no variables"
    shown = listed((name[:MAX_SHOWN] for name in names), FIRST_NAMES)
    return f"{len(variables)} variable{'s' * (len(variables) > 1)} ({shown})"


class Probe:
    """Answers one rule of recognition at a time.

    Args:
        variables: names and shapes.
        views: templates of the names under which copies of `{variable}` are stored.
        choices: {placeholder of a `which` rule: names that can replace it}.
        separator: between the scopes of a name.
    """

    def __init__(
        self,
        variables: Mapping[str, VariableInfo],
        views: Iterable[str],
        choices: Mapping[str, Collection[str]],
        separator: str = "/",
    ) -> None:
        self.variables, self.views, self.choices, self.separator = variables, tuple(views), choices, separator
        self.names = sorted(f"{name}{separator}" for name in variables)
        self.chosen: dict[str, str] = {}

    def answers(self, rules: Mapping[str, Rule]) -> dict[str, Any]:
        """Return the answers, see `answer`, to the questions of some rules whose condition is met."""
        answers: dict[str, Any] = {}
        for question, rule in rules.items():
            if WHEN not in rule or answers.get(str(rule[WHEN])):
                answers[question] = self.answer(rule)
        return answers

    def answer(self, rule: Rule) -> Any:
        """Return the answer; None if what the rule looks for does not exist.

        Later rules can use the name that a `which` rule found, as its placeholder.
        """
        if "which" in rule:
            found = next((name for name, scope in self._candidates(rule) if self.exists(scope)), None)
            if found is not None:
                self.chosen.update(dict.fromkeys(placeholders(str(rule["which"])), found))
            return found
        rule = self._filled(rule)
        if "lowest" in rule:
            return self._lowest(str(rule["lowest"]))
        if "count" in rule:
            template = str(rule["count"])
            first = self._lowest(template) if rule["first"] == LOWEST else int(rule["first"])
            numbers = itertools.count(0 if first is None else first)
            return sum(1 for _ in itertools.takewhile(lambda n: self.exists(_numbered(template, n)), numbers)) or None
        if "size_of" in rule:
            shape, axis = self._shape(str(rule["size_of"])), int(rule["axis"])
            return shape[axis] if shape is not None and axis < len(shape) else None
        if "matches" in rule:
            pattern = re.compile(str(rule["matches"]))
            return any(map(pattern.search, self.variables))
        if "axes" in rule:
            shape = self._shape(str(rule["exists"]))
            return shape is not None and len(shape) == rule["axes"]
        return self.exists(str(rule["exists"]))

    def expected(self, rule: Rule) -> str:
        """Return what a rule looks for, in words."""
        if "which" in rule:
            return f"one of the scopes {', '.join(scope for _, scope in self._candidates(rule))}"
        rule = self._filled(rule)
        if "lowest" in rule or rule.get("first") == LOWEST:
            return f"a scope {rule.get('lowest', rule.get('count'))}"
        if "count" in rule:
            return f"the scope {_numbered(str(rule['count']), int(rule['first']))}"
        if "size_of" in rule:
            return (
                f"the variable {' or '.join(str(rule['size_of']).split())} with at least {int(rule['axis']) + 1} axes"
            )
        return f"the scope {rule['exists']}"

    def exists(self, scope: str) -> bool:
        """Whether a scope or variable exists; sorted names need less memory than a set of the scopes of any name.

        `*` stands for any text inside one part of a name.
        """
        prefix = f"{scope}{self.separator}"
        if "*" in prefix:
            pattern = re.compile(re.escape(prefix).replace(r"\*", f"[^{self.separator}]*"))
            return any(map(pattern.match, self.names))
        place = bisect.bisect_left(self.names, prefix)
        return place < len(self.names) and self.names[place].startswith(prefix)

    def _shape(self, names: str) -> tuple[int, ...] | None:
        """Return the shape of the first of some variables that is stored, in any copy."""
        numbered = (name.format(n=n) for name in names.split() for n in range(LARGEST_NUMBER if "{n}" in name else 1))
        stored = (template.format(variable=name) for name in numbered for template in self.views)
        return next((self.variables[name].shape for name in stored if name in self.variables), None)

    def _lowest(self, template: str) -> int | None:
        return next((n for n in range(LARGEST_NUMBER) if self.exists(_numbered(template, n))), None)

    def _filled(self, rule: Rule) -> Rule:
        """Return a rule with the names that were found before in their places."""
        filled = dict(rule)
        for placeholder, name in self.chosen.items():
            for key, value in filled.items():
                filled[key] = value.replace(f"{{{placeholder}}}", name) if isinstance(value, str) else value
        return filled

    def _candidates(self, rule: Rule) -> Iterable[tuple[str, str]]:
        template = str(rule["which"])
        (placeholder,) = placeholders(template)
        return [(name, template.format_map({placeholder: name})) for name in self.choices[placeholder]]


def _numbered(template: str, number: int) -> str:
    return template.replace("{n}", str(number))
