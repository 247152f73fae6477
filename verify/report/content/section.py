"""What a section of a report is made of: sentences, a table, a list, a figure, facts; all of it plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from verify.report.content.figures import Figure
from verify.results.verification import Verdict

MAX_LISTED = 15

Columns = Mapping[str, Literal["text", "minor", "name", "number"]]


class Failed(str):
    """The text of a table cell that shows a failure."""

    __slots__ = ()


@dataclass(frozen=True)
class Section:
    """A title and whichever of the other parts there are, in this order.

    Attributes:
        title: what it is about; of the first section, the verdict.
        lines: sentences.
        columns: of a table: {title: what the cells are}; "name" is a layer or tensor, "minor" a short text that a
            printed page leaves out. A title may have two lines.
        rows: of that table, the most important first if `max_rows` is set.
        max_rows: how many of the rows short reports show; None for all.
        items: what was found: the name of a layer or tensor, then sentences about it. Short reports list
            `MAX_LISTED` of them.
        figure: for the HTML page.
        facts: nested names and values.
        failed: whether something in it failed.
        detailed: whether only the HTML page has room for it.
        verdict: of the first section.
        basis: of the first section: "rests on ...".
    """

    title: str
    lines: tuple[str, ...] = ()
    columns: Columns = field(default_factory=dict)
    rows: tuple[tuple[str, ...], ...] = ()
    max_rows: int | None = None
    items: tuple[tuple[str, ...], ...] = ()
    figure: Figure | None = None
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
    def is_long(self) -> bool:
        """Whether the table is worth sorting and filtering on the HTML page."""
        return self.detailed or len(self.rows) > len(self.short_rows)

    @property
    def short_title(self) -> str:
        """The title in a report that shows only the first rows and items."""
        counts = (
            (len(self.short_rows), len(self.rows), "report.html"),
            (len(self.short_items), len(self.items), "report.json"),
        )
        cut = (
            f" (first {short} of {count}; all in {file}, see --report-dir)"
            for short, count, file in counts
            if short < count
        )
        return self.title + "".join(cut)

    @property
    def short_rows(self) -> tuple[tuple[str, ...], ...]:
        """The first `max_rows` rows."""
        return self.rows[: self.max_rows]

    @property
    def short_items(self) -> tuple[tuple[str, ...], ...]:
        """The first `MAX_LISTED` items."""
        return self.items[:MAX_LISTED]


def numbers(*titles: str) -> Columns:
    """Return columns of numbers with these titles."""
    return dict.fromkeys(titles, "number")


def marked(text: str, failed: bool) -> str:
    """Return a table cell, marked where it shows a failure."""
    return Failed(text) if failed else text
