"""The report for a CI job's summary page, as GitHub-flavoured Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from effdet_torch.untrusted.text import printable
from verify.report.content.section import Failed, Section
from verify.report.content.sections import sections
from verify.results.verification import Verification

PUNCTUATION = re.compile(r"([\\`*_{}\[\]<>&|~$@#!])")


def to_markdown(verification: Verification) -> str:
    """Return a verification as Markdown, short enough for a summary page."""
    verdict, *others = sections(verification)
    blocks = [f"## {_prose(verdict.headline)}", *map(_prose, (verdict.title, *verdict.lines))]
    for section in others:
        if not section.detailed:
            blocks += _section(section)
    return "\n\n".join(blocks) + "\n"


def _section(section: Section) -> Iterator[str]:
    yield f"### {section.short_title}"
    if section.lines:
        yield _prose(" ".join(section.lines))
    if section.rows:
        yield "\n".join(_table(section))
    if section.items:
        items = (f"* {_code(name)}<br>{'<br>'.join(map(_prose, lines))}" for name, *lines in section.short_items)
        yield "\n".join(items)


def _table(section: Section) -> Iterator[str]:
    kinds = section.columns.values()
    yield _row(map(_prose, section.columns))
    yield _row("---:" if kind == "number" else "---" for kind in kinds)
    for row in section.short_rows:
        yield _row(_cell(text, kind == "name") for text, kind in zip(row, kinds, strict=True))


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(text: str, name: bool) -> str:
    if name:
        return _code(text).replace("|", r"\|")
    return f"**{_prose(text)}**" if isinstance(text, Failed) else _prose(text)


def _code(name: str) -> str:
    """Return a name as a code span, whatever it holds: the fence is longer than any run of backticks inside."""
    text = printable(name)
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    padding = " " if "`" in text else ""
    return f"{fence}{padding}{text}{padding}{fence}"


def _prose(text: str) -> str:
    return PUNCTUATION.sub(r"\\\1", printable(text))
