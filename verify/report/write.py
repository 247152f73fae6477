"""All reports of a verification."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path

from effdet_torch.errors import OutputError
from effdet_torch.outputs.atomic import replacing
from verify.report.html import to_html
from verify.report.json import to_json
from verify.report.junit import to_junit
from verify.report.markdown import to_markdown
from verify.report.terminal import render_terminal
from verify.results.verification import Verification

LOG = logging.getLogger("effdet")
# Every report of --report-dir: its name, and what makes it.
REPORTS: Mapping[str, Callable[[Verification], str | bytes]] = {
    "report.json": to_json,
    "junit.xml": to_junit,
    "summary.md": to_markdown,
    "report.html": to_html,
}

__all__ = ["REPORTS", "render_terminal", "to_html", "to_json", "to_junit", "to_markdown", "write_reports"]


def write_reports(verification: Verification, folder: Path) -> list[Path]:
    """Write all `REPORTS`, and return their paths.

    All reports are built before the first one is written, and each file appears complete or not at all.

    Args:
        verification: what was found.
        folder: created if it does not exist; reports of an earlier run in it are replaced.

    Raises:
        OutputError: The folder cannot be created, or a file in it cannot be written.
    """
    contents = {name: render(verification) for name, render in REPORTS.items()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"cannot create the report folder {folder}: {error.strerror}; choose another folder"
        ) from error
    for name, content in contents.items():
        with replacing(folder / name) as stream:
            stream.write(content if isinstance(content, bytes) else content.encode())
    LOG.info("wrote %d reports into %s", len(contents), folder)
    return [folder / name for name in contents]
