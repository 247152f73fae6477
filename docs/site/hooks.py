"""What the site needs beyond its plugins: pages beside docs/, the gallery's pictures, nothing loaded from elsewhere.

In the repository, pages link to files as they lie there. The site has the content of docs/ at its top, and beside it
the pages of `BESIDE`; links are rewritten to that.
"""

from __future__ import annotations

import posixpath
import re
from html import escape
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[2]
PICTURES = ROOT / "build" / "gallery"  # written by docs/site/gallery.py
BESIDE = ("CHANGELOG.md", "CONTRIBUTING.md", "findings/*", "mappings/*.md")
LINK = re.compile(r"(?<=\]\()(?!https?:|#|mailto:)([^)#\s]+)")
LOADED = re.compile(
    r"""<(?:script|img|iframe|source)\b[^>]*\bsrc=["']?(?:https?:)?//[^>]*>"""
    r"""|<link\b(?=[^>]*\brel=["']?(?:stylesheet|preconnect|icon|preload))[^>]*\bhref=["']?(?:https?:)?//[^>]*>"""
)
MARK = "<!-- pictures -->"


def on_files(files: Files, config: Any) -> Files:
    """Add the pages beside docs/, and the pictures that were made."""
    for pattern in BESIDE:
        for path in sorted(ROOT.glob(pattern)):
            add(files, config, path.relative_to(ROOT).as_posix(), path)
    for path in sorted(PICTURES.glob("*")):
        if path.suffix != ".md":
            add(files, config, f"gallery/{path.name}", path)
    return files


def add(files: Files, config: Any, name: str, path: Path) -> None:
    """Add a file under a name of the site."""
    files.append(File.generated(config, name, abs_src_path=str(path)))


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Rewrite links, and show the pictures."""
    here = page.file.src_uri
    if MARK in markdown and PICTURES.is_dir():  # it is there as a whole, or not at all
        markdown = markdown.replace(MARK, (PICTURES / "pictures.md").read_text(encoding="utf-8"))
    return LINK.sub(lambda link: in_site(link[1], here), markdown)


def in_site(link: str, here: str) -> str:
    """Return a link of a page of the site as the site has it.

    Args:
        link: relative, as in the repository.
        here: the page, as the site has it.
    """
    page = here if (ROOT / here).is_file() and here.startswith(beside()) else f"docs/{here}"
    target = posixpath.normpath(posixpath.join(posixpath.dirname(page), link))
    return posixpath.relpath(target.removeprefix("docs/"), posixpath.dirname(here) or ".")


def beside() -> tuple[str, ...]:
    """Return how the names of pages beside docs/ begin."""
    return tuple(pattern.partition("*")[0] for pattern in BESIDE)


def on_post_page(output: str, page: Any, **_: Any) -> str:
    """Refuse a page that would not work offline."""
    if found := LOADED.search(output):
        raise PluginError(f"{page.file.src_uri} loads from elsewhere: {escape(found[0])}")
    return output
