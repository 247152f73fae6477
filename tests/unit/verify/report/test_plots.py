"""The plot of error growth."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from xml.etree import ElementTree as ET

import pytest

import support.verification_samples as samples
from verify.report.plots import COLOURS, error_growth_svg
from verify.results import Verification

SVG = "{http://www.w3.org/2000/svg}"


def one_layer() -> Verification:
    return replace(samples.passing(), layers=samples.passing().layers[:1])


@cache
def svg_of(sample: Callable[[], Verification]) -> str:
    return error_growth_svg(sample())


def texts(svg: str) -> list[str]:
    return ["".join(element.itertext()).strip() for element in ET.fromstring(svg).iter(f"{SVG}text")]


@pytest.mark.parametrize("sample", [samples.passing, samples.failing, samples.nasty, one_layer])
def test_is_valid_and_takes_its_colours_from_the_page(sample: Callable[[], Verification]) -> None:
    svg = svg_of(sample)
    root = ET.fromstring(svg)
    assert root.attrib["role"] == "img"
    assert root.find(f".//{SVG}style") is None
    assert set(re.findall(r"(?<!, )#[0-9a-f]{6}\b", svg)) == set()
    assert set(re.findall(r"--plot-([a-z0-9]+)", svg)) <= set(COLOURS)
    assert not re.search(r"\b(nan|inf)\b", re.sub("aria-label=.*?>", "", svg))


def test_shows_both_modes_and_the_parts_of_the_network() -> None:
    found = texts(svg_of(samples.passing))
    assert [text.partition(":")[0] for text in found if ": " in text] == ["Cumulative", "Isolated"]
    for text in ("Backbone", "BiFPN", "Class head", "Box head"):
        assert found.count(text) == 2
    for text in ("float32", "float64", "tolerance, float32", "tolerance, float64"):
        assert found.count(text) == 1


def test_marks_failures() -> None:
    broken_at = samples.failing().failures[0].order
    passing, failing = (texts(svg_of(x)) for x in (samples.passing, samples.failing))
    assert failing.count(f"first failure: layer {broken_at}") == 2
    assert "beyond its tolerance" in failing
    assert not any("failure" in text or "beyond" in text for text in passing)


def test_one_mode_gives_one_panel() -> None:
    layers = tuple(layer for layer in samples.passing().layers if layer.mode == "isolated")
    found = texts(error_growth_svg(replace(samples.passing(), layers=layers)))
    assert found.count("Backbone") == 1
    assert not any(text.startswith("Cumulative") for text in found)


def test_describes_itself_in_words() -> None:
    label = ET.fromstring(svg_of(samples.failing)).attrib["aria-label"]
    assert f"isolated, float64: 1 of {len(samples.failing().layers) // 4} layers beyond tolerance" in label


def test_is_the_same_every_time() -> None:
    assert error_growth_svg(samples.failing()) == svg_of(samples.failing)


def test_nothing_compared_is_no_plot() -> None:
    assert error_growth_svg(samples.empty()) == ""
