"""report.html: one page, nothing from elsewhere, nothing taken literally."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from html.parser import HTMLParser

import pytest

import support.verification_samples as samples
from verify.report.html import to_html
from verify.results import Verification

ALL = [samples.passing, samples.failing, samples.nasty, samples.unaudited, samples.empty]
VOID = {"meta", "link", "br", "wbr", "input"}
Attributes = list[tuple[str, str | None]]
Sample = Callable[[], Verification]


@cache
def html_of(sample: Sample) -> str:
    return to_html(sample())


class Page(HTMLParser):
    """Elements, ids, references and text of a page; complains about tags that do not nest."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: Attributes) -> None:
        self.tags[tag] += 1
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Attributes) -> None:
        self.tags[tag] += 1
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def values(self, name: str) -> list[str]:
        return [attributes[name] or "" for _, attributes in self.elements if name in attributes]


@pytest.mark.parametrize("sample", ALL)
def test_one_page_that_needs_nothing_else(sample: Sample) -> None:
    page = Page(html_of(sample))
    assert page.tags["script"] == page.tags["style"] == page.tags["h1"] == 1
    assert page.values("src") == []
    assert all(link.startswith(("data:", "#")) for link in page.values("href") + page.values("xlink:href"))
    assert "default-src 'none'" in page.values("content")[1]


@pytest.mark.parametrize("sample", ALL)
def test_ids_are_unique_and_references_lead_somewhere(sample: Sample) -> None:
    page = Page(html_of(sample))
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    assert set(page.values("aria-labelledby")) <= set(ids)
    assert {link[1:] for link in page.values("xlink:href")} <= set(ids)


def test_names_are_text() -> None:
    html = html_of(samples.nasty)
    assert "<script>alert" not in html
    assert "\x1b" not in html
    assert "&lt;script&gt;alert(1)&lt;/" in html
    assert html.encode()  # no lone surrogates


def test_an_unescaped_name_would_be_noticed() -> None:
    html = html_of(samples.nasty)
    Page(html)
    with pytest.raises(AssertionError):
        Page(html.replace("&lt;", "<").replace("&gt;", ">"))


def test_a_row_per_layer_with_its_numbers() -> None:
    verification = samples.failing()
    page = Page(html_of(samples.failing))
    failed = {(layer.order, layer.name) for layer in verification.failures}
    assert len(page.values("data-failed")) == len(failed)
    layers = len(verification.layers) // 4
    assert len(page.values("data-value")) == 6 * layers + 2 * 10  # order, shape and four errors; outputs


def test_sort_values_are_numbers_even_where_errors_are_not() -> None:
    values = Page(html_of(samples.nasty)).values("data-value")
    assert "Infinity" in values
    assert not {"nan", "inf"} & set(values)


def test_a_run_that_misses_a_layer_leaves_its_cell_blank() -> None:
    verification = replace(samples.passing(), layers=samples.passing().layers[1:])
    assert Page(to_html(verification)).values("data-value").count("") == 1


def test_the_verdict_is_at_the_top() -> None:
    passing, failing = (" ".join(Page(html_of(x)).text) for x in (samples.passing, samples.failing))
    assert "These two networks compute the same." in passing
    assert "First divergent layer" not in passing
    assert failing.index("do not compute the same") < failing.index("First divergent layer") < failing.index("Failed")
    assert failing.index("bias not folded") < failing.index("Failed layers")


def test_provenance_is_complete() -> None:
    text = " ".join(Page(html_of(samples.passing)).text)
    for part in ("5f" * 32, "0a" * 32, "model.index", "ema", "folded", "2.21.0", "effdet-verify d0.pth", "512, 512"):
        assert part in text


def test_nothing_compared_has_no_table_and_no_plot() -> None:
    page = Page(html_of(samples.empty))
    assert page.tags["table"] == page.tags["svg"] == 0


def test_the_largest_model_stays_small() -> None:
    assert len(to_html(samples.passing("d7x"))) < 3_000_000
