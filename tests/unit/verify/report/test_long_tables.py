"""Long tables and lists: short reports cut them and say so, the page has everything."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from types import ModuleType

import pytest
from rich.console import Console

from support.verification_samples import PASSING
from verify.report import html, markdown, terminal
from verify.report.content.section import MAX_LISTED, Section


def on_terminal() -> str:
    stream = io.StringIO()
    terminal.render_terminal(PASSING, Console(file=stream, width=100, _environ={}))
    return stream.getvalue()


SHORT: Mapping[str, tuple[ModuleType, Callable[[], str]]] = {
    "terminal": (terminal, on_terminal),
    "markdown": (markdown, lambda: markdown.to_markdown(PASSING)),
}
PAGE = (html, lambda: html.to_html(PASSING))
CUT = f"first {MAX_LISTED} of 80; all in report."
SEE = ", see --report-dir)"


def table(rows: int, max_rows: int | None = MAX_LISTED) -> Section:
    found = tuple((f"class {row:02},", str(row)) for row in range(rows))
    return Section("AP", columns={"class": "text", "AP": "number"}, rows=found, max_rows=max_rows)


def rendered(
    section: Section, report: tuple[ModuleType, Callable[[], str]], monkeypatch: pytest.MonkeyPatch
) -> tuple[str, list[int]]:
    """Return the text of a report with one section, and which rows are in it."""
    module, render = report
    monkeypatch.setattr(module, "sections", lambda _: [Section("The verdict", ("line",)), section])
    text = render()
    return text, [row for row in range(80) if f"class {row:02}," in text]


@pytest.mark.parametrize("name", SHORT)
def test_a_long_table_is_cut_and_says_so(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text, rows = rendered(table(80), SHORT[name], monkeypatch)
    assert f"AP ({CUT}html{SEE}" in text
    assert rows == list(range(MAX_LISTED))


@pytest.mark.parametrize("name", SHORT)
@pytest.mark.parametrize("section", [table(80, None), table(MAX_LISTED)], ids=["no limit", "as many as the limit"])
def test_a_table_that_is_not_cut_does_not_say_so(name: str, section: Section, monkeypatch: pytest.MonkeyPatch) -> None:
    text, rows = rendered(section, SHORT[name], monkeypatch)
    assert "first" not in text
    assert rows == list(range(len(section.rows)))


def test_the_page_has_all_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    text, rows = rendered(table(80), PAGE, monkeypatch)
    assert CUT not in text
    assert rows == list(range(80))


def test_rows_and_items_are_counted_apart() -> None:
    items = tuple((f"layer {item}",) for item in range(80))
    both = Section("Both", rows=table(80).rows, max_rows=MAX_LISTED, items=items)
    assert both.short_title == f"Both ({CUT}html{SEE} ({CUT}json{SEE}"
    assert Section("Items", items=items).short_title == f"Items ({CUT}json{SEE}"
