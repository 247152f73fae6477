"""The Python of docs/integrations.md, for the tests that run it with the packages themselves."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

PAGE = Path(__file__).resolve().parents[2] / "docs" / "integrations.md"


def python_of(section: str, page: Path = PAGE) -> str:
    """Return the Python under a heading of a page."""
    found = re.search(rf"^## {re.escape(section)}\n(.*?)(?=^## |\Z)", page.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    assert found, f"{page.name} has no section {section!r}"
    blocks = re.findall(r"^```python\n(.*?)^```", found[1], re.MULTILINE | re.DOTALL)
    assert blocks, f"{section} has no Python"
    return "\n".join(blocks)


def run_sections(*sections: str, page: Path = PAGE, **names: Any) -> dict[str, Any]:
    """Run the Python of some sections in their order, and return its variables."""
    for section in sections:
        exec(python_of(section, page), names)
    return names
