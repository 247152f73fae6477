"""TensorBundles written by hand: values, several shards, strings, missing and damaged files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import support.tiny_bundle as tiny
from converter.errors import CorruptFileError, MissingFileError, UnsupportedSourceError
from converter.readers.tensorflow.tensorbundle import TensorBundle
from converter.source import VariableInfo
from support.tiny_bundle import entry, write_bundle

FLOAT = 1
TENSORS: dict[str, Any] = {
    "scope/kernel": np.arange(24, dtype=np.float32).reshape(2, 3, 4),
    "scope/half": np.array([1.5, -2.0], np.float16),
    "double": np.array(np.pi),
    "global_step": np.array(780, np.int64),
    "flags": np.array([True, False, True]),
    "empty": np.zeros((0, 7), np.float32),
    "texts": np.array([[b"", b"a\x00b"], [b"x" * 300, "ü".encode()]], object),
    "text": np.array(b"graph", object),
    "no_texts": np.zeros((0,), object),
}


@pytest.mark.parametrize("shards", [1, 3])
def test_reads_what_was_written(tmp_path: Path, shards: int) -> None:
    with TensorBundle(write_bundle(tmp_path / "model.ckpt-1", TENSORS, shards)) as bundle:
        assert set(bundle.variables) == set(TENSORS)
        for name, expected in TENSORS.items():
            value = bundle.read(name)
            assert (value.dtype, value.shape) == (expected.dtype, expected.shape)
            assert value.tolist() == expected.tolist()
            assert bundle.variables[name].shape == expected.shape


def test_knows_its_files_and_kind(tmp_path: Path) -> None:
    bundle = TensorBundle(write_bundle(tmp_path / "m", TENSORS, 2))
    assert (bundle.kind, bundle.facts.folder, bundle.path) == ("TF1 checkpoint", tmp_path, tmp_path / "m")
    assert [path.name for path in bundle.files()] == ["m.index", "m.data-00000-of-00002", "m.data-00001-of-00002"]
    assert bundle.variables["scope/kernel"] == VariableInfo("float32", (2, 3, 4))
    graph = write_bundle(tmp_path / "ckpt-1", {"_CHECKPOINTABLE_OBJECT_GRAPH": np.array(b"", object)})
    assert TensorBundle(graph).kind == "TF2 object checkpoint"


def test_what_a_checkpoint_lacks_of_its_training(tmp_path: Path) -> None:
    names = {
        "x/gamma": "",
        "x/gamma/ExponentialMovingAverage": "raw values or averages",
        "x/gamma/Momentum": "optimizer",
    }
    names |= {"global_step": "steps"}
    for left_out, lost in names.items():
        kept = {name: np.zeros(1, np.float32) for name in names if name != left_out or not lost}
        with TensorBundle(write_bundle(tmp_path / "model", kept)) as bundle:
            assert len(bundle.facts.unrecoverable) == bool(lost)
            assert all(lost in text for text in bundle.facts.unrecoverable)


def test_numbers_are_views_of_the_file_unless_they_are_not_aligned(tmp_path: Path) -> None:
    tensors = {"a": np.ones(4, np.float32), "b": np.ones(1, np.uint8), "c": np.arange(3, dtype=np.float32)}
    bundle = TensorBundle(write_bundle(tmp_path / "m", tensors))
    view, copy = bundle.read("a"), bundle.read("c")
    assert not view.flags.owndata
    assert not view.flags.writeable
    assert copy.flags.aligned
    bundle.close()
    assert view.tolist() == [1, 1, 1, 1]  # outlives the bundle
    assert copy.tolist() == [0, 1, 2]


def test_missing_and_truncated_files(tmp_path: Path) -> None:
    prefix = write_bundle(tmp_path / "m", TENSORS)
    data = Path(f"{prefix}.data-00000-of-00001")
    data.unlink()
    bundle = TensorBundle(prefix)
    assert len(bundle.variables) == len(TENSORS)
    assert [path.name for path in bundle.files()] == ["m.index"]
    with pytest.raises(MissingFileError, match=r"data-00000-of-00001: double: No such file.*Keep all files"):
        bundle.read("double")
    with pytest.raises(KeyError):
        bundle.read("no such name")
    data.write_bytes(b"")
    with pytest.raises(CorruptFileError, match=r"the file has 0 bytes; expected at least 8.*git-lfs"):
        bundle.read("double")
    with pytest.raises(MissingFileError, match=r"absent\.index: No such file"):
        TensorBundle(tmp_path / "absent")


@pytest.mark.parametrize("dtype", [tiny.RESOURCE, 21, 11, 24, 29, 99])
def test_lists_but_does_not_read_other_dtypes(tmp_path: Path, dtype: int) -> None:
    bundle = TensorBundle(tiny.write_records(tmp_path / "m", {b"x": entry(dtype, [2], bytes(8))}, bytes(8)))
    assert bundle.variables["x"].shape == (2,)
    with pytest.raises(UnsupportedSourceError, match=rf"x: values of dtype {bundle.variables['x'].dtype}"):
        bundle.read("x")


def test_refuses_more_axes_than_numpy_allows(tmp_path: Path) -> None:
    bundle = TensorBundle(tiny.write_records(tmp_path / "m", {b"x": entry(FLOAT, [1] * 40, bytes(4))}, bytes(4)))
    with pytest.raises(UnsupportedSourceError, match="40 axes"):
        bundle.read("x")


@pytest.mark.parametrize(
    ("data", "shape", "text"),
    [
        (b"\x01\x01", [2**40], "1099511627776 strings do not fit in 2 bytes"),
        (b"\x80\x80", [2], "runs past the end"),
        (b"\x01\x01aa", [2], "string lengths do not match"),
        (tiny.encode_strings([b"aa"])[0][:-1], [1], "strings have 2 bytes; expected 1"),
        (tiny.encode_strings([b"aa"])[0] + b"a", [1], "strings have 2 bytes; expected 3"),
        (tiny.encode_strings([b"aa"])[0][:-1] + b"b", [1], "strings do not match"),
    ],
)
def test_refuses_strings(tmp_path: Path, data: bytes, shape: list[int], text: str) -> None:
    record = entry(7, shape, data, crc=tiny.encode_strings([b"aa"])[1])
    with pytest.raises(CorruptFileError, match=text):
        TensorBundle(tiny.write_records(tmp_path / "m", {b"x": record}, data)).read("x")


def test_trained_checkpoint_matches_its_checksums(shared: Path) -> None:
    with TensorBundle(shared / "trained_d0_256" / "model.ckpt-780") as bundle:
        assert bundle.read("global_step") == 780
        assert sum(bundle.read(name).nbytes for name in bundle.variables) == bundle.files()[1].stat().st_size
