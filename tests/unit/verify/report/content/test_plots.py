"""The plot of errors along the network."""

from __future__ import annotations

import re
from dataclasses import replace
from xml.etree import ElementTree as ET

import pytest

from support.verification_samples import FAILING, HOSTILE, PASSING
from verify.report.content.layers import runs
from verify.report.content.plots import Panel, panels
from verify.report.html import to_html
from verify.results.verification import Verification

ONE_LAYER = replace(PASSING, layers=PASSING.layers[:1])
EXACT = replace(
    ONE_LAYER,
    layers=(replace(PASSING.layers[0], tolerance=0.0, measures=replace(PASSING.layers[0].measures, max_over_rms=0.0)),),
)


def panel(verification: Verification) -> Panel:
    return panels(runs(verification))[0]


@pytest.mark.parametrize("verification", [PASSING, FAILING, HOSTILE, ONE_LAYER, EXACT])
def test_is_valid_and_takes_its_colours_from_the_page(verification: Verification) -> None:
    html = to_html(verification)
    svg = html[html.index("<svg") : html.index("</svg>") + 6]
    root = ET.fromstring(svg)
    assert root.attrib["role"] == "img"
    assert not re.search(r"\b(nan|inf)\b|#[0-9a-f]{6}|(fill|stroke|style)=", svg)
    assert ("exceeds its tolerance" in svg.partition(">")[2]) == bool(verification.failures)


def test_every_error_has_its_place() -> None:
    found = panel(PASSING)
    errors = [1e-20, 1e-12, 1e-6, 1e-3]
    heights = [found.y(error) for error in errors]
    assert heights == sorted(heights, reverse=True)
    assert found.y(0.0) == found.height
    assert found.y(float("nan")) == found.y(float("inf")) == 0
    assert all(0 < y < found.height for _, y in found.errors(found.layers))
    assert [found.x(order) for order in (-0.5, 7.5)] == [0, found.width]


def test_parts_cover_the_network() -> None:
    parts = list(panel(PASSING).parts)
    assert [name for name, _, _ in parts] == ["Backbone", "BiFPN", "Class head", "Box head"]
    assert sum(width for _, _, width in parts) == pytest.approx(Panel.width)


def test_ticks_are_few_and_round() -> None:
    many = tuple(replace(PASSING.layers[0], order=order) for order in range(1400))
    found = panel(replace(PASSING, layers=many))
    assert list(found.orders) == list(range(0, 1400, 200))
    assert list(panel(FAILING).powers) == list(range(-14, 1, 2))


def test_one_mode_gives_one_panel() -> None:
    assert [found.title.partition(":")[0] for found in panels(runs(PASSING))] == ["Cumulative", "Isolated", "Fused"]
    assert [found.title.partition(":")[0] for found in panels(runs(HOSTILE))] == ["Isolated"]
    assert panels([]) == []
