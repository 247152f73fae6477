"""Every reader of a file meets pipes, devices, huge files, deep nesting and aliases: one error, in bounded time."""

from __future__ import annotations

import os
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converter.conversion import describe_files
from converter.errors import ConversionError
from converter.hparams.syntax import read_hparams_file
from converter.locate import open_checkpoint
from effdet_torch import load_model
from effdet_torch.data.files import read_header, read_lines
from effdet_torch.data.layouts.open_images import read_rows
from effdet_torch.data.layouts.voc import read_xml
from effdet_torch.data.sources import DataSource
from effdet_torch.errors import EffdetError
from effdet_torch.inference.images import read_image
from effdet_torch.inference.labels import read_labels
from effdet_torch.inference.partial_results import PartialResults
from effdet_torch.train.run import results as training_results
from effdet_torch.train.run.settings import read_settings_file
from support.tiny_bundle import write_bundle
from verify.detections.results_file import read_results
from verify.reference.official.config_file import read_config_file

pytestmark = pytest.mark.timeout(60)
HUGE = 300 << 30  # bytes that a sparse file claims
DEEP = 100_000


def read_annotations(path: Path) -> Any:
    return DataSource(annotations=path, images=path.parent).read()


# What reads a file that the user names, and a suffix that it takes for its own.
READERS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "source": (open_checkpoint, ""),
    "PyTorch source": (open_checkpoint, ".pth"),
    "archive": (open_checkpoint, ".tar.gz"),
    "Keras weights": (open_checkpoint, ".h5"),
    "model": (load_model, ".pth"),
    "hyperparameters": (read_hparams_file, ".yaml"),
    "reference's settings": (read_config_file, ".yaml"),
    "names": (read_labels, ".txt"),
    "names in JSON": (read_labels, ".json"),
    "names in YAML": (read_labels, ".yaml"),
    "label map": (read_labels, ".pbtxt"),
    "annotations": (read_annotations, ".json"),
    "XML": (read_xml, ".xml"),
    "list": (read_lines, ".txt"),
    "data.yaml": (lambda path: DataSource(data=path).read(), ".yaml"),
    "records": (lambda path: DataSource(data=path).read(), ".tfrecord"),
    "CSV": (lambda path: list(read_rows(path)), ".csv"),
    "results": (read_results, ".json"),
    "results of a training": (training_results.read_results, ".json"),
    "settings of a training": (read_settings_file, ".yaml"),
    "image": (read_image, ".jpg"),
    "header": (read_header, ".jpg"),
}
ALL = pytest.mark.parametrize("reader", READERS)


def refused(reader: str, path: Path, words: str) -> None:
    with pytest.raises(EffdetError, match=words) as caught:
        READERS[reader][0](path)
    assert path.name in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@ALL
def test_a_pipe_and_a_device(tmp_path: Path, reader: str) -> None:
    pipe = tmp_path / f"pipe{READERS[reader][1]}"
    os.mkfifo(pipe)
    device = tmp_path / f"device{READERS[reader][1]}"
    device.symlink_to("/dev/zero")
    for path in (pipe, device):
        refused(reader, path, r"it is a pipe or a device; copy|is not a folder or a data set file")


@ALL
def test_a_sparse_file(tmp_path: Path, reader: str) -> None:
    path = tmp_path / f"sparse{READERS[reader][1]}"
    with path.open("wb") as stream:
        stream.truncate(HUGE)
    refused(reader, path, f"it has {HUGE} bytes; expected at most")


@ALL
def test_a_link_to_itself(tmp_path: Path, reader: str) -> None:
    path = tmp_path / f"loop{READERS[reader][1]}"
    path.symlink_to(path.name)
    refused(reader, path, r"symbolic links|no such file|does not exist; pass one")


@pytest.mark.parametrize("reader", sorted(READERS.keys() - {"header"}))  # which Pillow opens
def test_a_file_that_may_not_be_read(tmp_path: Path, reader: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / f"mine{READERS[reader][1]}"
    path.touch()
    opened = Path.open

    def refuse(self: Path, *arguments: Any, **options: Any) -> Any:
        if self == path:
            raise PermissionError(13, "Permission denied", str(self))
        return opened(self, *arguments, **options)

    monkeypatch.setattr(Path, "open", refuse)
    refused(reader, path, "Permission denied")


@pytest.mark.parametrize("reader", ["names in JSON", "annotations", "results", "results of a training"])
@pytest.mark.parametrize(
    "content",
    ["[" * DEEP + "]" * DEEP, '{"images":' * DEEP + "1" + "}" * DEEP, '[{"x": ' + "[" * DEEP + "]" * DEEP + "}]"],
    ids=["lists", "objects", "unknown field"],
)
def test_deep_json(tmp_path: Path, reader: str, content: str) -> None:
    path = tmp_path / "deep.json"
    path.write_text(content)
    refused(reader, path, r"nested too deeply|recursion|not in COCO's results format|Expected `object`")


def test_deep_lines_of_an_interrupted_run(tmp_path: Path) -> None:
    path = tmp_path / "r.json.partial"
    path.write_text("[" * DEEP + "]" * DEEP + "\n")
    with pytest.raises(EffdetError, match=r"is damaged.*nested too deeply.*delete it"):
        PartialResults(tmp_path / "r.json", dict)


@pytest.mark.parametrize(
    "reader", ["hyperparameters", "reference's settings", "names in YAML", "data.yaml", "settings of a training"]
)
@pytest.mark.parametrize("key", ["names", "label_map", "image_size", "nc", "val"])
def test_aliases_under_a_known_key(tmp_path: Path, reader: str, key: str) -> None:
    path, names = tmp_path / "bomb.yaml", [*(f"x{n}" for n in range(40)), key]
    lines = ["first: &first [1, 1]", "x0: &x0 [*first, *first]"]
    lines += [f"{name}: &{name} [*{below}, *{below}]" for below, name in pairwise(names)]
    path.write_text("\n".join(lines))
    refused(reader, path, "it holds more than 100000 values; aliases count as often as they are used")


def test_words_without_end_in_a_label_map(tmp_path: Path) -> None:
    """A pattern that begins anew at every letter would need hours."""
    path = tmp_path / "names.pbtxt"
    path.write_text("item { " + "a" * 3_000_000 + ' } item { id: 1 name: "cat" }')
    refused("label map", path, "expected ':' after a{40}, found '}'")
    path.write_text('item { id: 1 name: "cat" } # ' + "a" * 3_000_000)
    assert read_labels(path) == {1: "cat"}  # negative control


def test_a_sparse_file_in_the_place_of_a_checkpoints_data(tmp_path: Path) -> None:
    write_bundle(tmp_path / "m", {"a": np.ones(3, np.float32)})
    with open_checkpoint(tmp_path / "m") as source:
        assert len(describe_files(source.files(), checksums=True)) == 2  # negative control
        os.truncate(tmp_path / "m.data-00000-of-00001", HUGE)
        with pytest.raises(ConversionError, match=rf"m\.data-00000-of-00001 cannot be read: it has {HUGE} bytes"):
            describe_files(source.files(), checksums=False)


def test_a_pipe_in_the_place_of_a_checkpoints_data(tmp_path: Path) -> None:
    write_bundle(tmp_path / "m", {"a": np.ones(3, np.float32)})
    with open_checkpoint(tmp_path / "m") as source:
        assert source.read("a").tolist() == [1, 1, 1]
    data = tmp_path / "m.data-00000-of-00001"
    data.unlink()
    os.mkfifo(data)
    with open_checkpoint(tmp_path / "m") as source, pytest.raises(ConversionError, match="it is a pipe or a device"):
        source.read("a")
