"""The faults that were found in a data set, and what was done about them by the table of rules."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from effdet_torch.data.rule_table import RULES, Action
from effdet_torch.errors import MAX_LISTED, EvaluationError

MOST_EXAMPLES = 3


@dataclass(frozen=True)
class Note:
    """One kind of fault that a data set has.

    Attributes:
        kind: key of `RULES`.
        action: what was done: repaired, dropped or assumed.
        count: how many were found.
        text: what was wrong and what was done.
        examples: the first ones.
    """

    kind: str
    action: Action
    count: int
    text: str
    examples: tuple[str, ...] = ()

    @property
    def sentence(self) -> str:
        """The note in one line."""
        examples = f" (e.g. {', '.join(self.examples)})" if self.examples else ""
        return f"{self.action.capitalize()} ({self.count}): {self.text}{examples}."


@dataclass
class Places:
    """Where faults of one kind are: how many, and the first ones."""

    count: int = 0
    first: list[str] = field(default_factory=list)

    def add(self, where: object) -> None:
        """Count a place."""
        self.count += 1
        if len(self.first) < MAX_LISTED:
            self.first.append(str(where))

    def __str__(self) -> str:
        more = [f"and {self.count - len(self.first)} more"] if self.count > len(self.first) else []
        return ", ".join([*self.first, *more])


@dataclass
class Findings:
    """The faults of one data set.

    Attributes:
        of: name of the file or folder.
        found: {kind: where}, in the order of finding.
    """

    of: str
    found: dict[str, Places] = field(default_factory=dict)

    def add(self, kind: str, where: object) -> None:
        """Count a fault."""
        if kind not in RULES:
            raise KeyError(kind)
        self.found.setdefault(kind, Places()).add(where)

    def add_all(self, kind: str, where: Iterable[object]) -> None:
        """Count several faults of one kind."""
        for place in where:
            self.add(kind, place)

    def notes(self) -> tuple[Note, ...]:
        """Return what was repaired, dropped and assumed.

        Raises:
            EvaluationError: Something must be refused; names everything of that sort, and what to do.
        """
        refused = [(RULES[kind], places) for kind, places in self.found.items() if RULES[kind].action == "refused"]
        if refused:
            texts = (f"{rule.text} ({places.count}): {places}; {rule.next_step}" for rule, places in refused)
            raise EvaluationError(f"{self.of} cannot be used: {'. Also: '.join(texts)}")
        return tuple(
            Note(kind, RULES[kind].action, places.count, RULES[kind].text, tuple(places.first[:MOST_EXAMPLES]))
            for kind, places in self.found.items()
        )
