"""The report for a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from effdet_torch.untrusted.text import printable
from verify.report.content.section import Failed, Section
from verify.report.content.sections import sections
from verify.results.verification import Verdict, Verification

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


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
        console.print(_table(section))
    for name, *lines in section.short_items:
        _line(console, name, "red")
        for line in lines:
            _line(console, line, indent=2)


def _table(section: Section) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for title, kind in section.columns.items():
        number = kind == "number"
        table.add_column(title, justify="right" if number else "left", no_wrap=number, overflow="fold")
    for row in section.short_rows:
        failed = any(isinstance(cell, Failed) for cell in row)
        table.add_row(*(Text(printable(cell)) for cell in row), style="red" if failed else "")
    return table


def _line(console: Console, text: str, style: str = "", indent: int = 0) -> None:
    """Print text as it is: a name is neither markup nor to be highlighted."""
    from rich.padding import Padding
    from rich.text import Text

    console.print(Padding(Text(printable(text), style, overflow="fold"), (0, 0, 0, indent), expand=False))
