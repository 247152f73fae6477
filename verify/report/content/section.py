"""What a section of a report is made of: sentences, a table, a list, a plot, facts; all of it plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from verify.report.content.layers import Run
from verify.results import Verdict

MAX_LISTED = 15

Columns = Mapping[str, Literal["text", "name", "number"]]


class Failed(str):
    """The text of a table cell that shows a failure."""

    __slots__ = ()


@dataclass(frozen=True)
class Section:
    """A title and whichever of the other parts there are, in this order.

    Attributes:
        title: what it is about; of the first section, the verdict.
        lines: sentences.
        columns: of a table: {title: what the cells are}; "name" is a layer or tensor. A title may have two lines.
        rows: of that table.
        items: what was found: the name of a layer or tensor, then sentences about it. Short reports list
            `MAX_LISTED` of them.
        plot: runs to draw.
        facts: nested names and values.
        failed: whether something in it failed.
        detailed: whether only the HTML page has room for it; there, its table can be sorted and filtered.
        verdict: of the first section.
        basis: of the first section: "rests on ...".
    """

    title: str
    lines: tuple[str, ...] = ()
    columns: Columns = field(default_factory=dict)
    rows: tuple[tuple[str, ...], ...] = ()
    items: tuple[tuple[str, ...], ...] = ()
    plot: tuple[Run, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    failed: bool = False
    detailed: bool = False
    verdict: Verdict = "FAIL"
    basis: str = ""

    @property
    def headline(self) -> str:
        """The verdict and what it rests on."""
        return f"{self.verdict} - {self.basis}"

    @property
    def short_title(self) -> str:
        """The title in a report that lists only the first items."""
        count = len(self.items)
        return (
            self.title if count <= MAX_LISTED else f"{self.title} (first {MAX_LISTED} of {count}; all in report.json)"
        )


def numbers(*titles: str) -> Columns:
    """Return columns of numbers with these titles."""
    return dict.fromkeys(titles, "number")


def marked(text: str, failed: bool) -> str:
    """Return a table cell, marked where it shows a failure."""
    return Failed(text) if failed else text
