"""Both file formats against their own libraries; files are written completely or not at all."""

from __future__ import annotations

import io
import itertools
import json
import os
import pickletools
import stat
import struct
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import load_file

from converter.writers.pth import ALIGNMENT, write_pth
from converter.writers.safetensors import write_safetensors
from converter.writers.specs import TensorSpec, raw_bytes
from converter.writers.targets import Writer
from effdet_torch.errors import OutputError
from effdet_torch.file_format import METADATA_KEY
from effdet_torch.outputs.atomic import replacing
from support.sources import Array

METADATA: dict[str, Any] = {
    "none": None,
    "flags": [True, False],
    "numbers": [0, 1, -1, 255, 256, 65536, 2**31 - 1, 2**31, -(2**31), -(2**31) - 1, 2**63, -(2**70), 0.1, -1e300],
    "text": 'ü "quoted" \\ \n 漢字 \U0001f600',
    "nested": {"empty list": [], "empty": {}, "": "", "list": [{"a": [1]}]},
}
TENSORS: dict[str, Array] = {
    "float": np.arange(24, dtype=np.float32).reshape(2, 3, 4),
    "scalar": np.array(1.5, np.float32),
    "count": np.array(2**40, np.int64),
    "empty": np.zeros((0, 3), np.float32),
    "half": np.array([1.5, -2], np.float16),
    "double": np.array([[np.pi]]),
    "permuted": np.arange(24, dtype=np.float32).reshape(2, 3, 4).transpose(2, 0, 1),
    "special": np.array([np.nan, np.inf, -np.inf, -0.0, 1e-45], np.float32),
    "bias": np.ones(3, np.float32),
}
BOTH = pytest.mark.parametrize("writer", [write_pth, write_safetensors])


def specs_of(tensors: Mapping[str, Array]) -> dict[str, TensorSpec]:
    return {name: TensorSpec(array.dtype, array.shape) for name, array in tensors.items()}


def saved(path: Path, writer: Writer, tensors: Mapping[str, Array] = TENSORS, **metadata: Any) -> Path:
    with path.open("w+b") as stream:
        writer(stream, specs_of(tensors), tensors.items(), metadata or METADATA)
    return path


def equal(found: Array, name: str) -> bool:
    """Whether a tensor was written bit for bit; NaN and the sign of zero count as well."""
    expected = TENSORS[name]
    return found.dtype == expected.dtype and found.shape == expected.shape and found.tobytes() == expected.tobytes()


# PyTorch's format.


@pytest.mark.parametrize("mmap", [True, False])
def test_torch_loads_what_was_written(tmp_path: Path, mmap: bool) -> None:
    loaded = torch.load(saved(tmp_path / "a.pth", write_pth), weights_only=True, mmap=mmap)
    assert list(loaded) == ["state_dict", "metadata"]
    assert list(loaded["state_dict"]) == list(TENSORS)
    assert type(loaded["state_dict"]).__name__ == "OrderedDict"
    for name, tensor in loaded["state_dict"].items():
        assert equal(tensor.numpy(), name), name
        assert tensor.is_contiguous()
        assert not tensor.requires_grad
    assert loaded["metadata"] == METADATA
    # Every tensor has its own storage: changing one leaves the others unchanged.
    loaded["state_dict"]["bias"].fill_(7)
    assert all(equal(loaded["state_dict"][name].numpy(), name) for name in ("float", "special"))


def test_every_record_is_aligned_and_stored(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.pth", write_pth)
    content = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        assert {Path(info.filename).parts[0] for info in archive.infolist()} == {"archive"}
        for info in archive.infolist():
            name_bytes, extra_bytes = struct.unpack("<HH", content[info.header_offset + 26 : info.header_offset + 30])
            begin = info.header_offset + 30 + name_bytes + extra_bytes
            assert begin % ALIGNMENT == 0, info.filename
            assert content[begin : begin + info.file_size] == archive.read(info)
            assert info.compress_type == zipfile.ZIP_STORED
        assert archive.read("archive/byteorder") == b"little"


def test_the_pickle_asks_for_nothing_but_tensors(tmp_path: Path) -> None:
    with zipfile.ZipFile(saved(tmp_path / "a.pth", write_pth)) as archive:
        opcodes = list(pickletools.genops(archive.read("archive/data.pkl")))
    asked = {argument for opcode, argument, _ in opcodes if opcode.name == "GLOBAL"}
    storages = {f"torch {kind}Storage" for kind in ("Float", "Long", "Half", "Double")}
    assert asked == {"collections OrderedDict", "torch._utils _rebuild_tensor_v2", *storages}
    assert not {opcode.name for opcode, _, _ in opcodes} & {"PUT", "BINPUT", "MEMOIZE"}


def test_text_that_is_not_utf8_survives_as_in_pickle(tmp_path: Path) -> None:
    name = os.fsdecode(b"model\xff")
    loaded = torch.load(saved(tmp_path / "a.pth", write_pth, name=name), weights_only=True)
    assert loaded["metadata"]["name"] == name


@pytest.mark.parametrize("value", [{1, 2}, np.float32(1), b"bytes", Path("x"), {"deep": [object()]}])
def test_metadata_that_is_not_plain_is_refused(tmp_path: Path, value: object) -> None:
    with pytest.raises(TypeError, match="expected plain values"):
        saved(tmp_path / "a.pth", write_pth, {}, value=value)


# Safetensors.


def test_safetensors_loads_what_was_written(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.safetensors", write_safetensors)
    loaded = load_file(path)
    assert loaded.keys() == TENSORS.keys()
    assert all(equal(loaded[name], name) for name in TENSORS)
    with safe_open(path, "pt") as opened:
        metadata = opened.metadata()
        assert opened.get_slice("empty").get_shape() == [0, 3]
    assert metadata["format"] == "pt"
    assert json.loads(metadata[METADATA_KEY]) == METADATA
    # The data is complete, without gaps, and aligned to its items.
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    del header["__metadata__"]
    assert length % 8 == 0
    spans = sorted(entry["data_offsets"] for entry in header.values())
    assert spans[0][0] == 0
    assert all(end == begin for (_, end), (begin, _) in itertools.pairwise(spans))
    assert 8 + length + spans[-1][1] == len(content)
    assert all(entry["data_offsets"][0] % TENSORS[name].dtype.itemsize == 0 for name, entry in header.items())


# Both.


@BOTH
def test_tensors_may_arrive_in_any_order(tmp_path: Path, writer: Writer) -> None:
    path = tmp_path / "file"
    with path.open("w+b") as stream:
        writer(stream, specs_of(TENSORS), reversed(TENSORS.items()), METADATA)
    if writer is write_safetensors:
        assert path.read_bytes() == saved(tmp_path / "other", writer).read_bytes()
        return
    loaded = torch.load(path, weights_only=True)["state_dict"]
    assert list(loaded) == list(TENSORS)
    assert all(equal(loaded[name].numpy(), name) for name in TENSORS)


@BOTH
@pytest.mark.parametrize("tensors", [{}, {"x": np.arange(4, dtype=">f4")}], ids=["no tensor", "big-endian"])
def test_unusual_tensors(tmp_path: Path, writer: Writer, tensors: dict[str, Array]) -> None:
    path = saved(tmp_path / "a", writer, tensors)
    found = torch.load(path)["state_dict"] if writer is write_pth else load_file(path)
    assert {name: array.tolist() for name, array in found.items()} == ({"x": [0, 1, 2, 3]} if tensors else {})


@BOTH
@pytest.mark.parametrize("array", [np.zeros(4, np.float32), np.zeros(3), np.zeros((3, 1), np.float32)])
def test_a_tensor_that_differs_from_its_spec_is_refused(writer: Writer, array: Array) -> None:
    with pytest.raises(ValueError, match=r"its spec is float32 \(3,\)"):
        writer(io.BytesIO(), {"x": TensorSpec(np.dtype(np.float32), (3,))}, [("x", array)], {})


def test_raw_bytes_copies_only_if_necessary() -> None:
    plain, permuted = TENSORS["float"], TENSORS["permuted"]
    shared = raw_bytes(plain, TensorSpec(plain.dtype, plain.shape))
    copied = raw_bytes(permuted, TensorSpec(permuted.dtype, permuted.shape))
    assert np.shares_memory(np.frombuffer(shared, np.uint8), plain)
    assert not np.shares_memory(np.frombuffer(copied, np.uint8), permuted)
    assert bytes(copied) == permuted.tobytes()


# Completely or not at all.


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_a_new_file_appears_at_the_end_or_not_at_all(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "model"
    with pytest.raises(error), replacing(path):
        raise error
    assert list(tmp_path.iterdir()) == []
    with replacing(path) as stream:
        stream.write(b"whole")
        assert not path.exists()
    assert path.read_bytes() == b"whole"


def test_the_file_gets_the_mode_of_any_new_file(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        with replacing(tmp_path / "model"):
            pass
    finally:
        assert os.umask(old) == 0o027  # left as it was
    assert stat.S_IMODE((tmp_path / "model").stat().st_mode) == 0o640


@contextmanager
def files_of_at_most(size_bytes: int) -> Iterator[None]:
    """Let the kernel refuse to write more: to the writer the same as a full disk, an OSError in the middle."""
    resource = pytest.importorskip("resource", reason="file size limits are a thing of Unix")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@BOTH
@pytest.mark.parametrize("size_bytes", [0, 100, 200_000])  # refused when opened, flushed at the end, in the middle
def test_a_full_disk_is_an_output_error(tmp_path: Path, writer: Writer, size_bytes: int) -> None:
    path = tmp_path / "model"
    path.write_bytes(b"precious")
    tensors = TENSORS | ({"big": np.ones(1 << 17, np.float32)} if size_bytes > 100 else {})
    with (
        files_of_at_most(size_bytes),
        pytest.raises(OutputError, match=r"model cannot be written: File too large; nothing was changed"),
        replacing(path) as stream,
    ):
        writer(stream, specs_of(tensors), tensors.items(), METADATA)
    assert [file.name for file in tmp_path.iterdir()] == ["model"]
    assert path.read_bytes() == b"precious"


@pytest.mark.parametrize("where", ["absent/model", "file/model"])
def test_a_missing_folder_is_an_output_error(tmp_path: Path, where: str) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match=r"cannot be written: .*; choose another folder"), replacing(tmp_path / where):
        pytest.fail("the block must not run")


def test_a_target_that_cannot_be_replaced_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    with pytest.raises(OutputError, match="nothing was changed"), replacing(tmp_path / "model"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
