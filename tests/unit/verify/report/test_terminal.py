"""The report on a terminal: width, colour, and nothing from names but text."""

from __future__ import annotations

import io
import re
from dataclasses import replace

import pytest
from rich.console import Console

from effdet_torch.untrusted.text import printable
from support.verification_samples import BROKEN_KEY, FAILING, HOSTILE, NASTY, PASSING, PLACES, SAMPLES
from verify.command import UNLIMITED
from verify.report.terminal import render_terminal
from verify.results.verification import Verification


def rendered(verification: Verification, width: int = 100, colour: bool = False) -> str:
    stream = io.StringIO()
    render_terminal(verification, Console(file=stream, width=width, force_terminal=colour, _environ={"TERM": "xterm"}))
    return stream.getvalue()


PARTS = {
    part for name in (BROKEN_KEY, *(name for place in PLACES for name in place[:2])) for part in re.split("[/.]", name)
}
WHOLE = (*map(re.escape, PARTS), r"\d (?:s|px|%|pixels|images|layers|of)\b", r"\d x \d", r"\(\d+(?:, \d+)+\)")


def torn(narrow: str, wide: str) -> list[str]:
    """Return what is on one line of a wide text, but not of a narrow one."""
    return [pattern for pattern in WHOLE if len(re.findall(pattern, narrow)) < len(re.findall(pattern, wide))]


@pytest.mark.parametrize("verification", SAMPLES.values(), ids=SAMPLES)
def test_80_columns_tear_neither_numbers_from_units_nor_parts_of_names(verification: Verification) -> None:
    wide = rendered(verification, UNLIMITED)
    assert torn(rendered(verification, 80), wide) == []
    cut = "\n".join(wide[start : start + 7] for start in range(0, len(wide), 7))
    assert torn(cut, wide)  # negative control


def test_the_longest_part_of_a_name_has_room_in_80_columns() -> None:
    name = "efficientnet-b0/blocks_1/tpu_batch_normalization_1"
    layers = tuple(replace(layer, tf=name) for layer in PASSING.layers)
    lines = rendered(replace(PASSING, layers=layers), 80).splitlines()
    assert sum("  tpu_batch_normalization_1" in line for line in lines) == 6


def test_lines_that_are_piped_are_not_wrapped() -> None:
    path = "/models/" + "a-very-long-name " * 100
    wide = rendered(replace(FAILING, model={**FAILING.model, "path": path}), UNLIMITED)
    assert sum("a-very-long-name" in line for line in wide.splitlines()) == 1
    assert all(line == line.rstrip() for line in wide.splitlines() if "a-very" in line)
    narrow = rendered(replace(FAILING, model={**FAILING.model, "path": path}), 240)
    assert sum("a-very-long-name" in line for line in narrow.splitlines()) > 1  # negative control


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
