"""The report on a terminal: width, colour, and nothing from names but text."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from effdet_torch.untrusted.text import printable
from support.verification_samples import FAILING, HOSTILE, NASTY, PASSING, SAMPLES
from verify.report.terminal import render_terminal
from verify.results.verification import Verification


def rendered(verification: Verification, width: int = 100, colour: bool = False) -> str:
    stream = io.StringIO()
    render_terminal(verification, Console(file=stream, width=width, force_terminal=colour, _environ={"TERM": "xterm"}))
    return stream.getvalue()


@pytest.mark.parametrize("width", [80, 100])
@pytest.mark.parametrize("verification", SAMPLES.values(), ids=SAMPLES)
def test_fits_and_has_no_escape_sequences(verification: Verification, width: int) -> None:
    text = rendered(verification, width)
    assert max(map(len, text.splitlines())) <= width
    assert "\x1b" not in text


def test_outputs_need_no_second_line_in_80_columns() -> None:
    text = rendered(PASSING, 80)
    assert sum(line.startswith(("Class head P", "Box head P")) and "e-" in line for line in text.splitlines()) == 8


def test_colour_on_a_terminal() -> None:
    assert "\x1b[1;31mFAIL" in rendered(FAILING, colour=True)
    assert "\x1b[1;32mPASS" in rendered(PASSING, colour=True)
    assert "\x1b[1;36mEVALUATED" in rendered(SAMPLES["evaluated_only"], colour=True)


def test_names_are_neither_markup_nor_escape_sequences() -> None:
    assert "\x1b[31m" in NASTY  # both, if it were taken literally
    assert printable(NASTY) in rendered(HOSTILE, 300)
    assert "\x1b[31m\n" not in rendered(HOSTILE, 300, colour=True)
