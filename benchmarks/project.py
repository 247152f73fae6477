"""The project's folder and the data beside it, and tables that benchmarks write into its documentation."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"


def write_table(page: str, name: str, table: str) -> None:
    """Put a table into a page of docs/, between the two comments that have its name."""
    path, begin, end = ROOT / "docs" / page, f"<!-- {name}: begin -->\n", f"<!-- {name}: end -->\n"
    before, _, rest = path.read_text(encoding="utf-8").partition(begin)
    path.write_text(f"{before}{begin}{table}{end}{rest.partition(end)[2]}", encoding="utf-8")
