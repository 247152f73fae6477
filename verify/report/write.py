"""All reports of a verification."""

from __future__ import annotations

from pathlib import Path

from effdet_torch.atomic import replacing
from effdet_torch.errors import OutputError
from verify.report.html import to_html
from verify.report.json import to_json
from verify.report.junit import to_junit
from verify.report.markdown import to_markdown
from verify.report.terminal import render_terminal
from verify.results.verification import Verification

__all__ = ["render_terminal", "to_html", "to_json", "to_junit", "to_markdown", "write_reports"]


def write_reports(verification: Verification, folder: Path) -> list[Path]:
    """Write report.json, junit.xml, summary.md and report.html, and return their paths.

    All reports are built before the first one is written, and each file appears complete or not at all.

    Args:
        verification: what was found.
        folder: created if it does not exist; reports of an earlier run in it are replaced.

    Raises:
        OutputError: The folder cannot be created, or a file in it cannot be written.
    """
    contents = {
        "report.json": to_json(verification).encode(),
        "junit.xml": to_junit(verification),
        "summary.md": to_markdown(verification).encode(),
        "report.html": to_html(verification).encode(),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"cannot create the report folder {folder}: {error.strerror}; choose another folder"
        ) from error
    for name, content in contents.items():
        with replacing(folder / name) as stream:
            stream.write(content)
    return [folder / name for name in contents]
