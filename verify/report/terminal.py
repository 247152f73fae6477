"""The report for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from effdet_torch.untrusted.text import columns, printable, wrapped
from verify.report.content.section import Failed, Section
from verify.report.content.sections import sections
from verify.results.verification import Verdict, Verification

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions
    from rich.measure import Measurement
    from rich.table import Table
    from rich.text import Text

UNLIMITED = 100_000  # columns, more than any table has

STYLES: Mapping[Verdict, str] = {"PASS": "bold green", "FAIL": "bold red", "EVALUATED": "bold cyan"}


def render_terminal(verification: Verification, console: Console) -> None:
    """Print a verification; the console decides on colour and width (made for 100 columns, usable in 80)."""
    verdict, *others = sections(verification)
    _line(console, verdict.headline, STYLES[verdict.verdict])
    for line in (verdict.title, *verdict.lines):
        _line(console, line)
    for section in others:
        if not section.detailed:
            _section(console, section)


def _section(console: Console, section: Section) -> None:
    console.print()
    _line(console, section.short_title, "bold red" if section.failed else "bold")
    for line in section.lines:
        _line(console, line)
    if section.rows:
        table = _table(section)
        if console.measure(table, options=console.options.update(width=UNLIMITED)).maximum > console.width:
            table = _table(section, narrow=True)
        console.print(table)
    for name, *lines in section.short_items:
        _line(console, name, "red")
        for line in lines:
            _line(console, line, indent=2)


def _table(section: Section, narrow: bool = False) -> Table:
    """Return a table; a narrow one has narrow titles and gaps, which leaves room for names."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    padding = (0, 0 if narrow else 1, 0, 0)  # the frame, too, is a space wide
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=padding)
    for index, (title, kind) in enumerate(section.columns.items()):
        if kind == "number":
            least = max(map(len, (*title.split(), *(row[index] for row in section.short_rows))))
            lines = wrapped(title, least if narrow else None)
            table.add_column(Text("\n".join(lines)), justify="right", no_wrap=True)
        else:
            table.add_column(Text(title), overflow="fold")
    for row in section.short_rows:
        failed = any(isinstance(cell, Failed) for cell in row)
        cells = (
            Text(printable(cell)) if kind == "number" else Wrapped(printable(cell))
            for cell, kind in zip(row, section.columns.values(), strict=True)
        )
        table.add_row(*cells, style="red" if failed else "")
    return table


@dataclass(frozen=True)
class Wrapped:
    """Printable text in a cell, which breaks where `wrapped` allows it."""

    text: str

    def __rich_console__(self, _: Console, options: ConsoleOptions) -> Iterator[Text]:
        """Yield the lines for the width of the column."""
        from rich.text import Text

        yield Text("\n".join(wrapped(self.text, options.max_width)), overflow="fold")

    def __rich_measure__(self, _: Console, options: ConsoleOptions) -> Measurement:
        """Return the least and the greatest useful width."""
        from rich.measure import Measurement

        return Measurement(1, columns(self.text)).with_maximum(options.max_width)


def _line(console: Console, text: str, style: str = "", indent: int = 0) -> None:
    """Print text as it is: a name is neither markup nor to be highlighted."""
    from rich.text import Text

    for line in wrapped(printable(text), console.width - indent):
        console.print(Text(" " * indent + line, style), soft_wrap=True)
