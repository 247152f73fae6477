"""The project's mapping tables, edited: what `load_table` reads for the rest of a test."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from importlib import resources
from pathlib import Path

import pytest

from converter.plan.grammar import load_table

TABLES = Path(str(resources.files("mappings")))


def edit_tables(monkeypatch: pytest.MonkeyPatch, folder: Path, edit: Callable[[str], str]) -> None:
    """Put copies of all tables, each passed through `edit`, in the place of the project's."""
    shutil.copytree(TABLES, folder, ignore=shutil.ignore_patterns("__pycache__"))
    for path in folder.glob("*.yaml"):
        path.write_text(edit(path.read_text()))
    files = resources.files
    monkeypatch.setattr(resources, "files", lambda anchor: folder if anchor == "mappings" else files(anchor))
    load_table.cache_clear()


def rename_kind(kind: str) -> Callable[[str], str]:
    """Return an edit that renames a kind where it is defined and in all rows."""
    definition, row = rf"^  {kind}:", rf"^(  - \[[^,]*,[^,]*,\s*){kind}(?=,)"

    def edit(text: str) -> str:
        text = re.sub(definition, f"  renamed_{kind}:", text, flags=re.MULTILINE)
        return re.sub(row, rf"\1renamed_{kind}", text, flags=re.MULTILINE)

    return edit
