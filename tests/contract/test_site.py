"""The site: links lead to its pages, nothing is loaded from elsewhere, every public name is in the reference."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

import effdet_torch

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def hooks() -> ModuleType:
    pytest.importorskip("mkdocs", reason="mkdocs (extra `docs`) is not installed")
    spec = importlib.util.spec_from_file_location("site_hooks", ROOT / "docs" / "site" / "hooks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("link", "here", "expected"),
    [
        ("export.md", "index.md", "export.md"),
        ("../findings/README.md", "scale.md", "findings/README.md"),
        ("../../findings/README.md", "sources/tflite.md", "../findings/README.md"),
        ("../performance.md", "sources/tflite.md", "../performance.md"),
        ("docs/architecture.md", "CONTRIBUTING.md", "architecture.md"),
        ("../docs/parity.md", "findings/README.md", "../parity.md"),
        ("jpeg_decoder.sh", "findings/README.md", "jpeg_decoder.sh"),
    ],
)
def test_links_lead_to_pages_of_the_site(hooks: ModuleType, link: str, here: str, expected: str) -> None:
    assert hooks.in_site(link, here) == expected


@pytest.mark.parametrize(
    ("tag", "loads"),
    [
        ('<script src="https://unpkg.com/x.js"></script>', True),
        ('<link rel="stylesheet" href="//fonts.googleapis.com/css">', True),
        ('<link href="https://x.org/a.css" rel=stylesheet>', True),
        ('<img alt="" src="http://x.org/a.png">', True),
        ('<script src="assets/bundle.js"></script>', False),
        ('<link rel="stylesheet" href="assets/main.css">', False),
        ('<a href="https://arxiv.org">paper</a>', False),
    ],
)
def test_a_page_that_loads_from_elsewhere_is_refused(hooks: ModuleType, tag: str, loads: bool) -> None:
    page = SimpleNamespace(file=SimpleNamespace(src_uri="a.md"))
    if loads:
        with pytest.raises(hooks.PluginError, match=r"a\.md loads from elsewhere"):
            hooks.on_post_page(tag, page)
    else:
        assert hooks.on_post_page(tag, page) == tag


def test_the_reference_has_every_public_name() -> None:
    text = (ROOT / "docs" / "reference" / "python.md").read_text(encoding="utf-8")
    names = re.findall(r"^::: effdet_torch\.(\w+)$", text, re.MULTILINE)
    assert sorted(names) == sorted(effdet_torch.__all__)
