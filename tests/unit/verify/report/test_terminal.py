"""The report on a terminal."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

import support.verification_samples as samples
from verify.report.summary import failed_layers
from verify.report.terminal import render_terminal
from verify.results import Verification

ALL = [samples.passing(), samples.failing(), samples.nasty(), samples.unaudited(), samples.empty()]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def rendered(verification: Verification, width: int = 100, stream: io.StringIO | None = None) -> str:
    stream = stream or io.StringIO()
    render_terminal(verification, Console(file=stream, width=width, _environ={"TERM": "xterm"}))
    return stream.getvalue()


@pytest.mark.parametrize("width", [80, 100])
@pytest.mark.parametrize("verification", ALL)
def test_fits_and_has_no_colour(verification: Verification, width: int) -> None:
    text = rendered(verification, width)
    assert max(map(len, text.splitlines())) <= width
    assert "\x1b" not in text


def test_colour_on_a_terminal() -> None:
    assert "\x1b[1;31mFAIL" in rendered(samples.failing(), stream=Terminal())
    assert "\x1b[1;32mPASS" in rendered(samples.passing(), stream=Terminal())


def test_names_cannot_send_escape_sequences() -> None:
    assert "\x1b[31m" in samples.NASTY
    assert "\N{REPLACEMENT CHARACTER}[31m" in rendered(samples.nasty())


def test_names_are_no_markup() -> None:
    assert "'�[31m��" in rendered(samples.nasty(), width=300)


def test_passing() -> None:
    text = rendered(samples.passing())
    assert text.startswith("PASS  These two networks compute the same.\nd0.pth against built-in")
    assert "Failed layers" not in text
    assert "Box head P7" in text
    assert "All 712 tensors" in text


def test_failing_shows_the_first_layers_with_their_diagnosis() -> None:
    text = rendered(samples.failing(), width=300)
    assert f"Failed layers (first 15 of {len(failed_layers(samples.failing()))})" in text
    assert text.count(" -> ") == 15
    first = text.index(f"{samples.BROKEN} -> fpn.cell.1")
    assert first < text.index("also isolated, float64") < text.index("diagnosis: bias not folded in fpn.cell.1")
    assert text.count("diagnosis:") == 1
    assert "Audit: 1 finding in 712 tensors of the file." in text


def test_nothing_compared() -> None:
    assert rendered(samples.empty()).startswith("FAIL  Nothing was compared.")
