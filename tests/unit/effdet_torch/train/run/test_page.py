"""report.html: one page, nothing from elsewhere, no name taken as markup."""

from __future__ import annotations

import re

import pytest

from effdet_torch.train.run.page import headline, to_html
from effdet_torch.train.run.results import Results
from support.pages import Page
from support.train_results import NASTY, epoch_result

SETTINGS = {
    "data": "my<data>",
    "source": None,
    "recipe": {"epochs": 3, "augment": ["flip", "scale"]},
    "classes": {1: NASTY},
    "assumed": {"activation": "swish"},
}


def page(*aps: float | None, notes: tuple[str, ...] = (), pictures: tuple[str, ...] = ("curves.png",)) -> str:
    results = Results(notes=notes)
    for epoch, ap in enumerate(aps, start=1):
        results = results.adding(epoch_result(epoch, ap))
    return to_html("my run", results, SETTINGS, dict.fromkeys(pictures, b"PNG"))


@pytest.mark.parametrize("aps", [(), (None,), (0.1, 0.3, 0.2)])
def test_one_page_that_works_offline(aps: tuple[float | None, ...]) -> None:
    found = Page(page(*aps, pictures=("samples_val.png", "curves.png", "state.pt")))
    assert (found.tags.count("style"), found.tags.count("h1"), found.tags.count("script")) == (1, 1, 0)
    assert found.values("href") == ["data:,"]
    assert found.values("src") == ["data:image/png;base64,UE5H"] * 2  # only those that are pictures
    assert any("default-src 'none'" in str(policy) for policy in found.values("content"))


def test_names_are_text() -> None:
    html = page(0.1, notes=(NASTY,))
    assert html.count("&lt;script&gt;alert(1)&lt;/script&gt;\\x1b") == 3  # note, class, setting
    assert "<script" not in html
    assert "\x1b" not in html


def test_it_shows_what_was_found_and_set() -> None:
    html = page(0.1, 0.3, 0.2, notes=("AP 0: too few steps",))
    text = " ".join(re.sub(r"<[^>]+>", " ", html.partition("</style>")[2]).split())
    assert "epochs done: 3; the best is 2: AP 30.0 (ema), 15.0 (raw)" in text
    assert "class best, ema best, raw last, ema last, raw cat 30.0 15.0 20.0 10.0" in text
    assert "AP 0: too few steps" in text
    assert "Epochs, with AP in percent epoch loss lr AP_ema AP50_ema AP_raw AP50_raw seconds 3 " in text
    assert re.search(r"percent epoch .* seconds 3 \S+ \S+ 20\.0 .* 2 \S+ \S+ 30\.0 .* 1 \S+ \S+ 10\.0 ", text)
    for setting in ("data my&lt;data&gt;", "source none", "augment flip, scale", "activation swish"):
        assert setting in text
    assert "Notes" not in page(0.1)  # negative control


def test_the_headline_of_a_run_without_a_validation() -> None:
    assert headline(Results((epoch_result(1, None),))) == "epochs done: 1; not validated yet"
    assert headline(Results((epoch_result(1, -1.0, metrics={"raw": {"AP": -1.0}}),))).endswith("the best is 1: AP n/a")
