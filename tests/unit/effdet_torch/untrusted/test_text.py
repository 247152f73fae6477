"""What is shown of text from strangers: all letters, and nothing that a terminal or a parser acts on."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from effdet_torch.untrusted.text import MAX_LINE, printable, printable_line

CONTROLS = {"Cc", "Cs", "Zl", "Zp"}
REORDERING = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}


@pytest.mark.parametrize(
    "name",
    [
        "fpn_cells/cell_0",
        "Straße 5 Äpfel.jpg",
        "A\u0308pfel",
        "猫\u3000犬",
        "می\u200cشود",
        "שלום",
        "👩\u200d🚀",
        "a\\nb",
    ],
)
def test_names_in_any_script_stay_as_they_are(name: str) -> None:
    assert printable(name) == printable_line(name) == name


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\nError: b", r"a\nError: b"),
        ("a\r\tb", r"a\r\tb"),
        ("\x1b[31mred\x07", r"\x1b[31mred\x07"),
        ("\x9b2J\x85", r"\x9b2J\x85"),
        ("gpj\u202e.exe\u2066", r"gpj\u202e.exe\u2066"),
        ("a\u2028b\u2029c", r"a\u2028b\u2029c"),
        ("\udc80\ud800", r"\udc80\ud800"),
        ("\uffff", r"\uffff"),
    ],
)
def test_what_is_not_text_is_shown_as_its_number(text: str, shown: str) -> None:
    assert printable(text) == shown


@given(st.text(st.characters(), max_size=30))
def test_nothing_of_these_kinds_is_left(text: str) -> None:
    """Oracle: the categories of the Unicode database."""
    shown = printable(text)
    assert not CONTROLS & {unicodedata.category(letter) for letter in shown}
    assert not REORDERING & {unicodedata.bidirectional(letter) for letter in shown}
    assert len(shown.splitlines()) <= 1
    assert printable(shown) == shown


def test_a_name_without_end_is_cut_in_the_middle() -> None:
    shown = printable_line("a" * MAX_LINE + "\n" + "b" * MAX_LINE)
    assert shown.startswith("aaa")
    assert shown.endswith("bbb")
    assert f" [... {MAX_LINE + 1} letters ...] " in shown
    assert printable_line("a" * MAX_LINE) == "a" * MAX_LINE
