"""Every report of every sample against the file in tests/golden/report.

After a wanted change, `pytest tests/unit/verify/report/test_golden.py --rewrite-golden` writes them anew: read the
difference before committing it.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from support.verification_samples import FAILING, SAMPLES
from verify.report.html import to_html
from verify.report.json import to_json
from verify.report.junit import to_junit
from verify.report.markdown import to_markdown
from verify.report.terminal import render_terminal
from verify.results.verification import Verification

GOLDEN = Path(__file__).parents[3] / "golden" / "report"


def terminal(verification: Verification) -> str:
    console = Console(file=io.StringIO(), width=100, _environ={})
    render_terminal(verification, console)
    assert isinstance(console.file, io.StringIO)
    return "\n".join(line.rstrip() for line in console.file.getvalue().split("\n"))


def main_of_page(verification: Verification) -> str:
    """Return the page without its style sheet and script, which are files already."""
    html = to_html(verification)
    return html[html.index("<main>") : html.index("<script>")]


FORMATS: Mapping[str, Callable[[Verification], str]] = {
    "txt": terminal,
    "md": to_markdown,
    "html": main_of_page,
    "json": to_json,
    "xml": lambda verification: to_junit(verification).decode(),
}


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("name", SAMPLES)
def test_report_equals_the_golden_file(name: str, suffix: str, request: pytest.FixtureRequest) -> None:
    path = GOLDEN / f"{name}.{suffix}"
    found = FORMATS[suffix](SAMPLES[name])
    if request.config.getoption("--rewrite-golden"):
        path.write_text(found, "utf-8", newline="\n")
        pytest.skip(f"wrote {path.name}")
    assert found == path.read_text("utf-8")


@pytest.mark.parametrize("suffix", FORMATS)
def test_one_changed_layer_shows(suffix: str) -> None:
    first, *others = FAILING.layers
    changed = replace(FAILING, layers=(replace(first, tolerance=0.0), *others))
    assert FORMATS[suffix](changed) != (GOLDEN / f"failing.{suffix}").read_text("utf-8")


def test_no_golden_file_is_left_over() -> None:
    assert {path.name for path in GOLDEN.iterdir()} == {f"{name}.{suffix}" for name in SAMPLES for suffix in FORMATS}
