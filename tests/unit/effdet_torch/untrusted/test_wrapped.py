"""Lines that fit a terminal: where they end, and where they may not."""

from __future__ import annotations

import pytest

from effdet_torch.untrusted.text import columns, wrapped

NAME = "efficientnet-b0/blocks_1/tpu_batch_normalization_1"


def test_only_a_width_wraps() -> None:
    text = "a word " * 100
    assert wrapped(text, None) == [text]
    assert len(wrapped(text, 80)) > 1  # negative control


@pytest.mark.parametrize(
    ("text", "width", "lines"),
    [
        ("one two three", 8, ["one two", "three"]),
        ("8 layers in 42.5 s.", 17, ["8 layers in", "42.5 s."]),
        ("at least 99.80 % of", 14, ["at least", "99.80 % of"]),
        ("of 512 x 640 pixels", 17, ["of", "512 x 640 pixels"]),
        ("in all 3.93 M parameters", 14, ["in all", "3.93 M", "parameters"]),  # longer than a line
        ("in all 3.93 M parameters", 20, ["in all", "3.93 M parameters"]),
        ("worst at (0, 16, 8, 63): found 1", 22, ["worst at", "(0, 16, 8, 63): found", "1"]),
        (NAME, 25, ["efficientnet-b0/blocks_1/", "tpu_batch_normalization_1"]),
        ("fpn.cell.1.fnode.2.conv", 10, ["fpn.cell.", "1.fnode.2.", "conv"]),
        ("at fpn.cell", 10, ["at", "fpn.cell"]),  # whole words first
        ("about 1234.5678", 6, ["about", "1234.5", "678"]),
        ("x" * 7, 3, ["xxx", "xxx", "x"]),
        ("", 3, [""]),
    ],
)
def test_where_lines_end(text: str, width: int, lines: list[str]) -> None:
    assert wrapped(text, width) == lines
    assert wrapped(text, max(columns(text), 1)) == [text]  # negative control: there is room


def test_all_lines_but_the_first_hang() -> None:
    assert wrapped("note         one two three 4", 26, 13) == ["note         one two three", "             4"]
    assert wrapped("a/b one two", 6, 100) == ["a/b", "   one", "   two"]


def test_letters_of_east_asia_take_two_columns() -> None:
    assert (columns("ab"), columns("\u732b\u72ac")) == (2, 4)
    assert wrapped("\u732b\u72ac\u732b", 4) == ["\u732b\u72ac", "\u732b"]


@pytest.mark.parametrize("width", [0, 1])
def test_a_terminal_without_room_loses_no_letter(width: int) -> None:
    assert "".join(wrapped("ab/c 1 s", width)).replace(" ", "") == "ab/c1s"
