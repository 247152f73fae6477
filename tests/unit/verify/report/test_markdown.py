"""summary.md: short, failures first, names as they are."""

from __future__ import annotations

import re

import pytest

import support.verification_samples as samples
from verify.report.markdown import to_markdown
from verify.report.summary import failed_layers
from verify.results import Verification

ALL = [samples.passing(), samples.failing(), samples.nasty(), samples.unaudited(), samples.empty()]


def tables(markdown: str) -> list[list[str]]:
    return [block.splitlines() for block in markdown.split("\n\n") if block.startswith("|")]


def columns(row: str) -> int:
    return len(re.findall(r"(?<!\\)\|", row)) - 1


@pytest.mark.parametrize("verification", ALL)
def test_rows_of_a_table_have_the_columns_of_its_title(verification: Verification) -> None:
    for table in tables(to_markdown(verification)):
        assert {columns(row) for row in table} == {columns(table[1])}


def test_a_bare_pipe_would_be_noticed() -> None:
    row = next(table for table in tables(to_markdown(samples.nasty())))[2]
    assert columns(row.replace(r"\|", "|")) > columns(row)


def test_passing_is_short_and_complete() -> None:
    text = to_markdown(samples.passing())
    assert text.startswith("## PASS: These two networks compute the same.\n")
    assert "Failed layers" not in text
    assert "| Box head P7 |" in text
    assert "All 712 tensors" in text
    assert len(text.splitlines()) < 40


def test_failed_layers_and_diagnosis_come_before_the_numbers() -> None:
    text = to_markdown(samples.failing())
    failed = len(failed_layers(samples.failing()))
    titles = re.findall("^##+ (.*)$", text, re.MULTILINE)
    assert titles == [
        "FAIL: These two networks do not compute the same.",
        f"Failed layers (10 of {failed}; all are in report.json)",
        "Diagnosis",
        "Runs",
        "Outputs per level",
        "Audit of the file",
    ]
    (first, *_) = tables(text)[0][2:]
    assert samples.BROKEN in first
    assert first.count("<br>") == 3
    assert "bias not folded" in text
    assert len(text.splitlines()) < 60


def test_no_html_from_names() -> None:
    text = to_markdown(samples.nasty())
    outside_code = re.sub(r"(`+).+?(?<!`)\1(?!`)", "", text)
    assert not re.search(r"(?<!\\)<(?!br>)", outside_code)
    assert "\x1b" not in text
    assert "``` <script>" in text  # the name holds two backticks in a row, so three enclose it


def test_nothing_compared() -> None:
    assert to_markdown(samples.empty()).startswith("## FAIL: Nothing was compared.")
