"""The table of formats in words: what --list prints, and what docs/export.md shows."""

from __future__ import annotations

from collections.abc import Iterator

from effdet_torch.export.format_table import FORMATS
from effdet_torch.export.formats import COLUMNS, SHAPES


def table_lines() -> Iterator[str]:
    """Yield the table for people: every format, and below it what its cells are."""
    for row in FORMATS.values():
        extra = f"; extra [{row.extra}]" if row.extra else ""
        yield f"{row.name} ({row.suffix}), run by {row.runtime}{extra}; {', '.join(row.precisions)}"
        yield from (f"  note: {note}" for note in row.notes())
        for (outputs, shape), cell in row.cells.items():
            reason = "" if cell.status == "validated" else f": {cell.text}"
            yield f"  {outputs}, {SHAPES[shape]}: {cell.status}{reason}"


def markdown() -> str:
    """Return the table for the docs."""
    head = ["format", "suffix", "run by", *(f"{outputs}, {SHAPES[shape]}" for outputs, shape in COLUMNS)]
    lines = [head, ["---"] * len(head)]
    notes: list[str] = []
    for row in FORMATS.values():
        cells = [f"`{row.name}`", f"`{row.suffix}`", row.runtime]
        for cell in row.cells.values():
            if cell.status != "validated" and cell.text not in notes:
                notes.append(cell.text)
            mark = "" if cell.status == "validated" else f" ({notes.index(cell.text) + 1})"
            cells.append(f"{cell.status}{mark}")
        lines.append(cells)
    reasons = [f"({number}) {text}" for number, text in enumerate(notes, 1)]
    return "\n".join([*(f"| {' | '.join(line)} |" for line in lines), "", "; ".join(reasons) + "."])
