"""The table of formats: its claims have tests, the docs show it, and the command knows its names."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import pytest

import cli
from effdet_torch.config import get_config
from effdet_torch.engines.document import Interface, plain_profile, profile_from
from effdet_torch.engines.names import BACKENDS, format_of, require_exporter
from effdet_torch.engines.table import ENGINES
from effdet_torch.errors import ConfigError, EffdetError, UsageError
from effdet_torch.export.cache import cached_engine
from effdet_torch.export.format_table import FORMATS
from effdet_torch.export.formats import COLUMNS, require_possible
from effdet_torch.export.listing import markdown, table_lines
from effdet_torch.export.settings import ExportSettings
from effdet_torch.file_format import EXPORTED_SUFFIXES
from effdet_torch.processing.profiles import PROFILES
from support.coco_samples import write_model

ROOT = Path(__file__).resolve().parents[4]
DETECTIONS: dict[str, Any] = {"outputs": "detections", "image_size": (64, 64)}
VALIDATED = [cell.text for row in FORMATS.values() for cell in row.cells.values() if cell.status == "validated"]


@pytest.fixture(scope="module")
def collected() -> set[str]:
    """The ids of the tests that the table names."""
    files = sorted({text.partition("::")[0] for text in VALIDATED})
    words = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-m", "slow or not slow", "-p", "no:cacheprovider"]
    done = subprocess.run([*words, *files], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines())


def test_every_validated_cell_names_a_test_that_exists(collected: set[str]) -> None:
    assert len(VALIDATED) >= 10
    assert set(VALIDATED) <= collected
    assert "tests/unit/effdet_torch/export/test_cells.py::test_cell[onnx-network-never]" not in collected


def test_every_tested_cell_is_called_validated(collected: set[str]) -> None:
    assert {test for test in collected if "::test_cell[" in test} == set(VALIDATED)


def test_every_cell_is_filled_and_explained() -> None:
    for row in FORMATS.values():
        assert tuple(row.cells) == COLUMNS
        assert all(cell.text for cell in row.cells.values())
        assert row.suffix in ENGINES.keys() & set(EXPORTED_SUFFIXES)
        assert "float32" in row.precisions


def test_the_docs_show_the_table() -> None:
    text = (ROOT / "docs" / "export.md").read_text(encoding="utf-8")
    assert markdown() in text, "docs/export.md is out of date: copy what effdet_torch.export.listing.markdown() returns"


def test_the_command_offers_the_formats_of_the_table() -> None:
    option = next(item for item in cli.export.params if item.name == "format_name")
    assert isinstance(option.type, click.Choice)
    assert list(option.type.choices) == list(FORMATS)
    assert list(BACKENDS) == [name for name, row in FORMATS.items() if row.is_run]


def test_the_list_for_people_has_every_format() -> None:
    lines = "\n".join(table_lines())
    assert all(f"{name} ({row.suffix})" in lines for name, row in FORMATS.items())
    assert "impossible: the anchors depend on the image size" in lines


@pytest.mark.parametrize(
    ("suffix", "name", "found"),
    [(".onnx", None, "onnx"), (".ONNX", None, "onnx"), (".pt2", None, "torch"), (".pt2", "aoti", "aoti")],
)
def test_the_format_is_chosen(suffix: str, name: str | None, found: str) -> None:
    assert format_of(suffix, name) == found


@pytest.mark.parametrize(
    ("suffix", "name", "said"),
    [
        (".mlmodel", None, r"no format has the suffix '.mlmodel'; .* onnx \(.onnx\), .*tensorrt \(.onnx\)$"),
        ("", None, "no format has the suffix ''"),
        (".xml", "onnx", r"a file of the format onnx ends in .onnx, not '.xml'; rename OUT"),
        (".onnx", "tflite", r"unknown format 'tflite'; expected one of onnx \(.onnx\), "),
    ],
)
def test_a_suffix_that_fits_no_format(suffix: str, name: str | None, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        format_of(suffix, name)


def test_a_missing_exporter_is_found_before_the_model_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("EFFDET_CACHE", str(tmp_path))
    require_exporter("openvino")
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(EffdetError, match=r"writing openvino needs openvino, which .* pip install '\.\[openvino\]'"):
        require_exporter("openvino")
    with pytest.raises(EffdetError, match="writing openvino needs openvino"):
        cached_engine(write_model(tmp_path / "model.pth"), "openvino")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("name", "interface", "said"),
    [
        (
            "onnx",
            {"outputs": "detections", "image_size": None},
            "detections with any image size: the anchors",
        ),
        ("torchscript", {"outputs": "detections", "image_size": (64, 64)}, "cannot hold detections with fixed sizes"),
        ("tensorrt", {"outputs": "network"}, "tensorrt cannot hold network .*: without NMS it is the format onnx"),
        ("tensorrt", {**DETECTIONS, "profile": {"sigma": 0.5}}, "tensorrt has hard NMS only; pass --nms hard"),
        ("torch", {"image_size": (64, 64), "precision": "float16"}, "torch is written in float32, not in float16"),
        ("litert", {"image_size": (64, 64), "batch": None}, "litert cannot hold network with any batch: the official"),
        ("litert", {"image_size": (64, 64), "batch": 2}, "litert: it takes one image at a time, .*; leave out --batch"),
        ("litert", {**DETECTIONS, "batch": 2}, "litert: it takes one image at a time, .*; leave out --batch"),
        ("litert", {"image_size": (64, 64), "pixels": "uint8"}, "litert: it takes normalised floats in float32"),
        ("litert", {**DETECTIONS, "profile": plain_profile(PROFILES["serving-hard"])}, "has a profile of its own"),
    ],
)
def test_what_a_format_cannot_hold_is_refused(name: str, interface: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        require_possible(FORMATS[name], Interface(**interface))
    works = Interface(**DETECTIONS) if name == "tensorrt" else Interface(image_size=(64, 64))
    assert require_possible(FORMATS[name], works).text


def test_what_a_format_has_unless_told_otherwise() -> None:
    """An official .tflite file has the operation's NMS inside, with the model's own thresholds."""
    config = get_config("lite0", nms_configs=(("iou_thresh", 0.4), ("score_thresh", 0.1), ("sigma", 0.7)))
    assert FORMATS["onnx"].interface(ExportSettings(), config).outputs == "network"
    found = FORMATS["litert"].interface(ExportSettings(), config)
    wanted = replace(PROFILES["tflite"], iou_threshold=0.4, score_threshold=0.1)
    assert (found.outputs, profile_from(found.profile)) == ("detections", wanted)
    assert require_possible(FORMATS["litert"], found).status == "validated"
    assert FORMATS["litert"].interface(ExportSettings(nms="none"), config).outputs == "network"
    for name in ("litert", "tensorrt"):
        with pytest.raises(ConfigError, match=f"{name} has hard NMS only; pass --nms hard"):
            FORMATS[name].interface(ExportSettings(nms="soft"), config)
