"""Names as text."""

from __future__ import annotations

from verify.report.content.text import printable


def test_printable_keeps_names_and_replaces_what_controls_a_terminal() -> None:
    assert printable("fpn_cells/cell_0 é") == "fpn_cells/cell_0 é"
    assert printable("a\x1b[31m\n\udc80\u202e") == "a�[31m���"
