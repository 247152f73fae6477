"""What an interrupted run keeps; how commands resume is tested with them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from effdet_torch.errors import EvaluationError
from effdet_torch.inference.partial_results import PartialResults, image_key
from effdet_torch.outputs.paths import STDOUT
from effdet_torch.untrusted.files import FilePart
from support.coco_samples import result

FOUND = [result(1, 2, (0, 0, 1, 1), 0.5)]


def origin() -> dict[str, Any]:
    return {"model": "x", "size": (1, 2), "labels": {1: "cat"}}


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_files_of_several_processes_are_read_together_and_removed_together(tmp_path: Path) -> None:
    out = tmp_path / "results.json"
    for rank in (0, 1, 11):
        PartialResults(out, origin, rank).add(f"image {rank}", FOUND * rank)
    others = {"results.json.partial.txt", "results.json.partial1x", "7", "xresults.json.partial"}
    for name in others:
        (tmp_path / name).write_text("another file")
    again = PartialResults(out, origin)
    assert again.done == {"image 0": [], "image 1": FOUND, "image 11": FOUND * 11}
    again.remove()
    assert names(tmp_path) == others


def test_the_key_of_an_image_changes_with_its_file(tmp_path: Path) -> None:
    path, other, link = (tmp_path / name for name in ("a.tfrecord", "b.tfrecord", "link"))
    for file in (path, other):
        file.write_bytes(b"content")
        os.utime(file, ns=(0, 1))
    link.symlink_to(path)
    sources = [path, other, *(FilePart(path, *place, "a.png") for place in ((0, 3), (1, 3), (0, 4)))]
    keys = [image_key(source) for source in sources]
    assert len(set(keys)) == len(sources)
    assert image_key(link) == keys[0]
    assert image_key(FilePart(path, 0, 3, "another name")) == keys[2]
    os.utime(path, ns=(0, 2))
    assert not {image_key(source) for source in sources if source != other} & set(keys)
    os.utime(path, ns=(0, 1))
    assert image_key(path) == keys[0]  # negative control
    path.write_bytes(b"longer content")
    os.utime(path, ns=(0, 1))
    assert not {image_key(source) for source in sources if source != other} & set(keys)


def test_a_run_that_finds_nothing_leaves_nothing(tmp_path: Path) -> None:
    PartialResults(tmp_path / "results.json", origin)
    assert names(tmp_path) == set()


def test_a_line_that_was_cut_off_is_dropped(tmp_path: Path) -> None:
    PartialResults(tmp_path / "r.json", origin).add("1", FOUND)
    path = tmp_path / "r.json.partial"
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"image": "2", "detec')
    again = PartialResults(tmp_path / "r.json", origin)
    assert again.done == {"1": FOUND}
    again.add("3", [])
    assert path.read_bytes() == whole + b'{"image": "3", "detections": []}\n'


@pytest.mark.parametrize("name", [None, STDOUT, "pipe"])
def test_beside_nothing_that_can_be_resumed_nothing_is_kept(tmp_path: Path, name: str | Path | None) -> None:
    os.mkfifo(tmp_path / "pipe")
    kept = PartialResults(None if name is None else tmp_path / name, lambda: pytest.fail("no checksum is needed"))
    kept.add("1", FOUND)
    kept.remove()
    assert kept.done == {}
    assert names(tmp_path) == {"pipe"}


def test_another_origin_is_refused_by_name(tmp_path: Path) -> None:
    PartialResults(tmp_path / "r.json", origin).add("1", FOUND)
    for change, words in (({"model": "y"}, "model"), ({"model": "y", "size": 3}, "model and size")):
        with pytest.raises(EvaluationError, match=rf"r\.json\.partial holds .* with another {words}\. Delete it"):
            PartialResults(tmp_path / "r.json", lambda change=change: origin() | change)
    assert PartialResults(tmp_path / "r.json", origin).done  # negative control


def test_a_partial_file_that_cannot_be_written(tmp_path: Path) -> None:
    partial = PartialResults(tmp_path / "r.json", origin)
    (tmp_path / "r.json.partial").mkdir()
    with pytest.raises(EvaluationError, match=r"r\.json\.partial cannot be (read|written): Is a directory; choose"):
        partial.add("1", [])


@pytest.mark.parametrize("name", ["r.json.partial", "r.json.partial7"])
@pytest.mark.parametrize("content", [b"precious", b"\0" * 9, b'{"model": "y'])
def test_another_file_under_the_name_is_kept(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(EvaluationError, match=rf"{name} is not of this run, .*; move it away"):
        PartialResults(tmp_path / "r.json", origin)
    assert (tmp_path / name).read_bytes() == content


def test_a_first_line_that_was_cut_off_is_written_again(tmp_path: Path) -> None:
    """Negative control."""
    path = tmp_path / "r.json.partial"
    PartialResults(tmp_path / "r.json", origin).add("1", FOUND)
    whole = path.read_bytes()
    path.write_bytes(whole[:9])
    PartialResults(tmp_path / "r.json", origin).add("1", FOUND)
    assert path.read_bytes() == whole


WRONG = [b'"x"', b"[1]", b"[{}]", b"null", b'[{"image_id": 1, "category_id": 1, "bbox": "x", "score": 1}]']
ENTRIES = [b'{"model": "x"}\n{"image": "1", "detections": %s}\n' % wrong for wrong in WRONG]


@pytest.mark.parametrize(
    "content",
    [
        b"{\n",
        b"\xff\n",
        b'{"model": "x"}\n[]\n',
        b'{"model": "x"}\n{"image": "1"}\n',
        b'{"model": "x"}\n{"image": 1, "detections": []}\n',
        *ENTRIES,
    ],
)
def test_a_damaged_partial_file_is_explained(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "r.json.partial").write_bytes(content)
    with pytest.raises(EvaluationError, match=r"r\.json\.partial is damaged: .*delete it"):
        PartialResults(tmp_path / "r.json", lambda: {"model": "x"})
