"""summary.md: tables that stay tables, and no markup from names."""

from __future__ import annotations

import re

import pytest

from support.verification_samples import HOSTILE, SAMPLES
from verify.report.markdown import to_markdown
from verify.results.verification import Verification


def columns(row: str) -> int:
    return len(re.findall(r"(?<!\\)\|", row)) - 1


@pytest.mark.parametrize("verification", SAMPLES.values(), ids=SAMPLES)
def test_rows_of_a_table_have_the_columns_of_its_title(verification: Verification) -> None:
    for block in to_markdown(verification).split("\n\n"):
        if block.startswith("|"):
            title, *rows = block.splitlines()
            assert {columns(row) for row in rows} == {columns(title)}


def test_a_bare_pipe_would_be_noticed() -> None:
    row = next(line for line in to_markdown(HOSTILE).splitlines() if line.startswith("|") and r"\|" in line)
    assert columns(row.replace(r"\|", "|")) > columns(row)


def test_no_markup_from_names() -> None:
    text = to_markdown(HOSTILE)
    outside_code = re.sub(r"(`+) .+? \1(?!`)", "", text)
    assert re.findall(r"(?<!\\)[<>](?!br>)", outside_code.replace("<br>", "")) == []
    assert "``` <script>" in text  # the name holds two backticks in a row, so three enclose it
    assert "\x1b" not in text
