"""Compare texts with the files in tests/golden.

After a wanted change, `pytest --rewrite-golden` writes them anew: read the difference before committing it.
"""

from __future__ import annotations

from pathlib import Path

import pytest

GOLDEN = Path(__file__).parents[1] / "golden"


def check_golden(request: pytest.FixtureRequest, name: str, text: str) -> None:
    path = GOLDEN / name
    if request.config.getoption("--rewrite-golden"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"{text}\n", "utf-8", newline="\n")
        pytest.skip(f"wrote {name}")
    assert f"{text}\n" == path.read_text("utf-8")
