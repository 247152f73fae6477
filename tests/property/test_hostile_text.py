"""Whatever strangers call tensors, files and classes: no command prints a control character or a forged line of it."""

from __future__ import annotations

import json
import os
import re
import tempfile
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import cli
from effdet_torch.untrusted.text import printable
from support.coco_samples import annotation, write_model

FORGED = "FORGED ok"
PARTS = [
    *("a", "ä", "猫", "\n", "\r", "\t", "\x85", "\u2028", "\u202e", "\u2067", "\udc80", "\x7f", "\x9b31m", "\x1b[2J"),
    *("\x1b]0;x\x07", f"\n{FORGED}", f"\r\n{FORGED}", f"\v{FORGED}", "<b>", "`", "|", "&", "[red]", "%s", "{0}", "\\n"),
]
NAMES = st.lists(st.sampled_from(PARTS), min_size=1, max_size=5).map("".join)
# A file system takes no lone surrogates but those that stand for bytes.
FILE_NAMES = NAMES.filter(lambda name: os.fsencode(name) != b"" and name not in (".", ".."))
KINDS = {"Cc", "Cs", "Zl", "Zp"}
REORDERING = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}


def faults(text: str, ours: str = "\n") -> list[str]:
    """Return what is wrong with an output, apart from characters that are ours."""
    letters = {x for x in set(text) - set(ours) if unicodedata.category(x) in KINDS}
    letters |= {x for x in text if unicodedata.bidirectional(x) in REORDERING}
    return [*map(repr, letters), *(line for line in text.splitlines() if line.startswith(FORGED))]


@pytest.mark.parametrize("output", ["a\x1b[2J", "a\r", "a\u202e", "a\udc80", "\x85", f"a\n{FORGED}\n"])
def test_the_check_finds_faults(output: str) -> None:
    """Negative control."""
    assert faults(output)
    assert not faults("ä 猫\n\\x1b FORGED ok\n")


@contextmanager
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def shown(command: Any, *arguments: object, name: str, ours: str = "\n") -> str:
    """Return all that a command prints; it has no faults, and shows the name."""
    result = CliRunner().invoke(command, list(map(str, arguments)), catch_exceptions=False)
    assert faults(result.output, ours) == []
    assert printable(name) in result.output
    return result.output


def write_safetensors(path: Path, names: list[str]) -> Path:
    """Write tensors of one number each; JSON states any name in ASCII."""
    header = {name: {"dtype": "F32", "shape": [1], "data_offsets": [4 * n, 4 * n + 4]} for n, name in enumerate(names)}
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(4 * len(names)))
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("hostile") / "m.pth", num_classes=2)


@settings(max_examples=40, deadline=None)
@given(NAMES)
def test_tensors_of_a_foreign_file(name: str) -> None:
    with folder() as root:
        path = write_safetensors(root / "m.safetensors", [name])
        for command in (cli.convert, cli.inspect):
            text = shown(command, path, *(["--dry-run"] if command is cli.convert else []), name="Error: ")
            assert len(text.splitlines()) == 1


@settings(max_examples=15, deadline=None)
@given(NAMES, st.sampled_from(["class_net", "box_net", "backbone"]))
def test_tensors_that_are_too_many(name: str, part: str) -> None:
    """A network with one more tensor, in a list of problems; the lines of that list are ours."""
    import torch

    from effdet_torch.network.model import EfficientDet
    from support.sources import small_config

    name = f"{part}.{name}"
    with torch.device("meta"):
        shapes = {key: tensor.shape for key, tensor in EfficientDet(small_config()).state_dict().items()}
    with folder() as root:
        torch.save({key: torch.zeros(shape) for key, shape in shapes.items()} | {name: torch.zeros(1)}, root / "m.pth")
        text = shown(cli.convert, root / "m.pth", "--dry-run", name=f"unexpected: {name}")
    assert [line for line in text.splitlines() if "unexpected: " in line] == [f"  unexpected: {printable(name)}"]


@settings(max_examples=15, deadline=None)
@given(FILE_NAMES)
def test_paths(name: str) -> None:
    """Names of files that exist, of folders, and of files that do not."""
    with folder() as root:
        path = root / f"{name}.txt"
        for arguments in ([path], [root / name], [root / name, "--tensors"]):
            shown(cli.inspect, *arguments, name=name)
        path.write_text("no model")
        shown(cli.convert, path, "--dry-run", name=name)
        shown(cli.detect, path, path, name=name)
        shown(cli.verify, path, "--coco", root / name, name=name)
        shown(cli.verify, root / "m.pth", "--annotations", path, "--images", root, name="Error: ")
        shown(cli.detect, "m.pth", path, "--labels", root / name, name="Error: ")
        (root / name).mkdir()
        shown(cli.inspect, root / name, name=name)


def test_the_words_of_settings() -> None:
    for option in ("a\x1b[2J=1", f"num_classes=1\n{FORGED}", f"x\n{FORGED}"):
        shown(cli.convert, "m.pth", "--dry-run", "--hparams", option, name="Error: ")
        shown(cli.convert, "m.pth", "--dry-run", "--variant", option, name="Error: ")
        shown(cli.convert, f"--{option}", name="Error: ")
        shown(cli.convert, f"http://[{option}", "--dry-run", name="Error: ")


@settings(max_examples=15, deadline=None)
@given(FILE_NAMES, NAMES)
def test_detections(model: Path, name: str, label: str) -> None:
    with folder() as root:
        (root / "x").mkdir()
        Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(root / "a.png")
        (root / "a.png").rename(root / "x" / f"{name}.png")
        (root / "x" / name).write_text("")
        (root / "names.json").write_text(json.dumps([f"one {label}", f"two {label}"]))
        options = ["--labels", root / "names.json", "--score", 0, "--out", root / "drawn"]
        text = shown(cli.detect, model, root / "x", *options, name=name)
    (line,) = (line for line in text.splitlines() if re.search(r": \d+ x (one|two) ", line))
    assert printable(label.strip()) in line


@settings(max_examples=12, deadline=None)
@given(FILE_NAMES.filter(lambda name: "\\" not in name), NAMES)  # where a file name has one, it is read as a slash
def test_evaluations_and_their_reports(model: Path, name: str, label: str) -> None:
    with folder() as root:
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)).save(root / "a.png")
        (root / "a.png").rename(root / f"{name}.png")
        content = {
            "images": [{"id": 1, "file_name": f"{name}.png", "width": 32, "height": 32}],
            "categories": [{"id": n, "name": f"{n} {label}"} for n in (1, 2)],
            "annotations": [annotation(1, 1, 1, (1, 2, 10, 20))],
        }
        (root / "x.json").write_text(json.dumps(content))
        options = ["--annotations", root / "x.json", "--images", root, "--workers", 0, "--report-dir", root / "report"]
        shown(cli.verify, model, *options, "--save-csv", root / "t.csv", name="EVALUATED")
        texts = {path.name: path.read_text() for path in (root / "report").iterdir()} | {
            "t": (root / "t.csv").read_text()
        }
        assert {file: faults(text) for file, text in texts.items() if file != "report.json" and faults(text)} == {}
        assert printable(label.strip()) in texts["t"].replace('""', '"')
        ET.fromstring(texts["junit.xml"])


@settings(max_examples=20, deadline=None)
@given(NAMES, NAMES)
def test_data_sets_that_are_refused(model: Path, name: str, label: str) -> None:
    content: dict[str, Any] = {
        "images": [{"id": 1, "file_name": name}, {"id": label, "file_name": f"{name}x"}, {"id": label, "file_name": 3}],
        "categories": [{"id": label, "name": name}, {"id": label, "name": f"{name}x"}],
        "annotations": [annotation(1, 1, 1, (1, 2, 10, 20)) | {"id": label, "image_id": name, "bbox": label}],
    }
    with folder() as root:
        (root / "x.json").write_text(json.dumps(content))
        text = shown(cli.verify, model, "--annotations", root / "x.json", "--images", root, name="Error: x.json")
    assert len([line for line in text.splitlines() if line.startswith("Error: ")]) == 1
