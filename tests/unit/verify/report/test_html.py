"""report.html: one page, nothing from elsewhere, no name taken as markup."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from support.pages import Page
from support.verification_samples import FAILING, HOSTILE, SAMPLES
from verify.report import html as report
from verify.report.content.section import MAX_LISTED, Columns, Section
from verify.report.html import to_html
from verify.results.verification import Verification


@pytest.mark.parametrize("verification", SAMPLES.values(), ids=SAMPLES)
def test_one_page_that_works_offline(verification: Verification) -> None:
    page = Page(to_html(verification))
    assert page.tags.count("script") == page.tags.count("style") == page.tags.count("h1") == 1
    assert page.values("href") == ["data:,"]
    assert not {"srcset", "action", "data"} & {name for name, _ in page.attributes}
    pictures = page.values("src")
    assert all(str(picture).startswith("data:image/jpeg;base64,") for picture in pictures)
    assert len(pictures) == page.tags.count("img")
    assert any("default-src 'none'" in str(policy) for policy in page.values("content"))
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    assert set(page.values("aria-labelledby")) <= set(ids)


def test_names_are_text() -> None:
    html = to_html(HOSTILE)
    assert "<script>alert" not in html
    assert not {"\x1b", "\udc80"} & set(html)
    with pytest.raises(AssertionError):  # an unescaped name would be noticed
        Page(html.replace("&lt;", "<").replace("&gt;", ">"))


def test_long_lists_are_folded_but_complete() -> None:
    assert FAILING.audit is not None
    count = len(FAILING.audit.findings)
    shown, folded = to_html(FAILING).split(f"<summary>{count - MAX_LISTED} more</summary>")
    names = [finding.tensor.replace(".", ".<wbr>") for finding in FAILING.audit.findings]
    assert all(name in shown for name in names[:MAX_LISTED])
    assert all(name in folded for name in names[MAX_LISTED:])


def sortable_tables(html: str) -> list[tuple[int, int]]:
    """Return how many sortable tables and how many filters each section has that has either."""
    found = [(part.count('class="sortable"'), part.count('class="filter"')) for part in html.split("<section")]
    return [counts for counts in found if any(counts)]


def test_every_detailed_table_has_controls_in_its_own_section(monkeypatch: pytest.MonkeyPatch) -> None:
    columns: Columns = {"class": "text", "AP": "number"}
    plain = Section("Plain", columns=columns, rows=(("cat", "50.0"),))
    detailed = replace(plain, title="Detailed", detailed=True)
    monkeypatch.setattr(report, "sections", lambda _: [Section("Verdict", ("line",)), plain, detailed, detailed])
    html = to_html(FAILING)
    assert sortable_tables(html) == [(1, 1), (1, 1)]
    ids = Page(html).values("id")
    assert len(ids) == len(set(ids))


def classes(verification: Verification) -> set[str]:
    return {name for value in Page(to_html(verification)).values("class") for name in str(value).split()}


def test_what_the_script_looks_for_is_on_the_page() -> None:
    script = (Path(report.__file__).parent / "templates" / "report.js").read_text("utf-8")
    wanted = set(re.findall(r"\.([a-z-]+)\"\)", script))
    assert wanted == {"sortable", "controls", "filter", "only-failures", "count", "bad", "scroll"}
    assert wanted <= classes(FAILING)
    assert not wanted <= classes(SAMPLES["empty"])  # it has no table of layers


@pytest.mark.parametrize("verification", SAMPLES.values(), ids=SAMPLES)
def test_the_text_of_the_page_has_no_hint_for_tables_that_may_fit(verification: Verification) -> None:
    html = to_html(verification)
    page, script = html.split("<script>")
    assert ("sideways" in page, script.count("sideways")) == (False, 1)
    assert re.search(r"@media print \{.*\.wider \{ display: none; \}", html, re.DOTALL)


BROWSER = shutil.which("chromium")


@pytest.mark.skipif(BROWSER is None, reason="needs the browser chromium")
@pytest.mark.parametrize(("width_px", "scripts"), [(500, True), (2500, True), (500, False)])
def test_only_what_is_really_wider_says_so(tmp_path: Path, width_px: int, scripts: bool) -> None:
    html = to_html(replace(FAILING, detection=SAMPLES["two_models"].detection))
    page = tmp_path / "report.html"
    page.write_text(html if scripts else html.replace("script-src 'unsafe-inline'; ", ""))
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    options += ["--virtual-time-budget=2000", "--dump-dom"]  # in ms: time to draw the page
    words = [str(BROWSER), *options, f"--window-size={width_px},2000", page.as_uri()]
    found = subprocess.run(words, capture_output=True, text=True, timeout=60, check=True).stdout
    shown = re.findall(r'<p class="wider">[^<]+</p>\s*<div class="scroll"[^>]* aria-label="([^"]+)"', found)
    assert len(shown) == found.count('<p class="wider"')
    assert "COCO metrics, 0 to 100" not in shown  # four short columns
    assert ({"Plot", "Classes"} <= set(shown)) == bool(shown) == (scripts and width_px == 500)
