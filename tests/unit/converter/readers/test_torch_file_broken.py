"""PyTorch files that are damaged, cut off, or something else: one clear error that names the file."""

from __future__ import annotations

import pickle
import struct
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from converter.errors import CorruptFileError, SourceError, UnsupportedSourceError
from converter.locate import open_checkpoint
from converter.readers.pytorch import torch_file
from converter.readers.pytorch.safetensors_file import read_safetensors_file
from converter.readers.pytorch.torch_file import LEGACY_MAGIC, read_torch_file
from effdet_torch.errors import ModelFileError
from effdet_torch.network.checkpoint import load_model

VALUES = torch.arange(500, dtype=torch.float32)
BYTES = VALUES.numpy().tobytes()
CONTENT = {"values": VALUES, "rows": VALUES[:6].reshape(2, 3), "count": torch.tensor(7), "note": "text"}
WHOLE = {"values": VALUES.tolist(), "rows": [[0, 1, 2], [3, 4, 5]], "count": 7, "note": "text"}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file that holds CONTENT."""
    torch.save(CONTENT, tmp_path / "a.pth")
    return tmp_path / "a.pth"


def read(path: Path, data: bytes | bytearray | None = None) -> Any:
    """Read a file, and all values of its tensors."""
    if data is not None:
        path.write_bytes(data)
    content = read_torch_file(path)
    return {key: value.array().tolist() if hasattr(value, "array") else value for key, value in content.items()}


def members_of(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {info.filename: archive.read(info) for info in archive.infolist()}


def change(path: Path, changes: Mapping[str, bytes | None], method: int = zipfile.ZIP_STORED) -> Path:
    """Replace members of a file, with the right checksums; None removes one."""
    members = members_of(path) | {f"{path.stem}/{name}": data for name, data in changes.items()}
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in members.items():
            if data is not None:
                archive.writestr(name, data)
    return path


def test_every_bit_is_covered_by_a_checksum(path: Path) -> None:
    whole, pickled = path.read_bytes(), members_of(path)["a/data.pkl"]
    assert read(path) == WHOLE
    begin, values = whole.index(pickled), whole.index(BYTES)
    places = dict.fromkeys(range(begin, begin + len(pickled)), r"a\.pth: damaged PyTorch file: data\.pkl")
    places |= dict.fromkeys([*range(values, values + 2000, 37), values + 1999], "storage 0")
    for place, name in places.items():
        data = bytearray(whole)
        data[place] ^= 1 << place % 8
        with pytest.raises(CorruptFileError, match=f"{name} does not match its checksum"):
            read(path, data)


def test_files_without_checksums_are_read(path: Path) -> None:
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(CONTENT, path)
    finally:
        torch.serialization.set_crc32_options(True)
    with zipfile.ZipFile(path) as archive:
        assert {info.CRC for info in archive.infolist()} == {0}
    assert read(path) == WHOLE


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"data/0": None}, CorruptFileError, "storage 0 is missing"),
        ({"data/0": BYTES[:-4]}, CorruptFileError, "storage 0 has 1996 bytes; expected 2000"),
        ({"data/0": bytes(2001)}, CorruptFileError, "storage 0 has 2001 bytes; expected 2000"),
        ({"data.pkl": b"N"}, CorruptFileError, "not a readable pickle: EOFError: it is cut off"),
        ({"byteorder": b"big"}, UnsupportedSourceError, "big-endian machine; save it again"),
        ({"data.pkl": None}, UnsupportedSourceError, "an archive, but not one of torch.save"),
    ],
)
def test_members_that_do_not_fit(path: Path, changes: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=rf"a\.pth: .*{words}"):
        read(change(path, changes))


def test_a_changed_file_is_read_if_it_fits(path: Path) -> None:
    """The control of the test above."""
    values = VALUES.flip(0).clone()
    changes = {"data/0": values.numpy().tobytes(), "byteorder": None, "more": b"x"}
    assert read(change(path, changes))["values"] == values.tolist()


def test_a_torchscript_program(path: Path) -> None:
    with warnings.catch_warnings():  # deprecated, but such files exist
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.ones(1, 2)), path)
    with pytest.raises(UnsupportedSourceError, match="a TorchScript program; give the state_dict"):
        read_torch_file(path)


@pytest.mark.parametrize("suffix", [".pt", ".bin", ".ckpt", ".torchscript"])
def test_programs_are_named_under_any_suffix(tmp_path: Path, suffix: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.ones(1, 2)), tmp_path / f"a{suffix}")
    with pytest.raises(UnsupportedSourceError, match="a TorchScript program"):
        open_checkpoint(tmp_path / f"a{suffix}")


def test_an_exported_program(tmp_path: Path) -> None:
    torch.export.save(torch.export.export(torch.nn.Linear(2, 2), (torch.ones(1, 2),)), tmp_path / "a.pt2")
    with pytest.raises(UnsupportedSourceError, match=r"a program of torch\.export; give the state_dict"):
        open_checkpoint(tmp_path / "a.pt2")


def test_members_that_are_not_where_the_archive_says(path: Path) -> None:
    whole = path.read_bytes()
    entry = whole.index(b"PK\x01\x02")
    for offset in (1, len(whole) - 10, 2**32 - 2):
        with pytest.raises(CorruptFileError, match="not where the archive says"):
            read(path, whole[: entry + 42] + struct.pack("<I", offset) + whole[entry + 46 :])
    path.write_bytes(whole)
    with pytest.raises(CorruptFileError, match="is compressed, or"):
        read(change(path, {}, zipfile.ZIP_DEFLATED))


def test_a_pickle_that_is_too_large(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_file, "MAX_PICKLE_BYTES", 100)
    with pytest.raises(UnsupportedSourceError, match="bytes besides its tensors; save only the state_dict"):
        read(path)


# Pickles that torch.save does not write.


def a_tensor(*geometry: Any, kind: str = "FloatStorage", count: Any = 500, key: Any = "0") -> dict[str, bytes | None]:
    """A pickle that describes 500 float32 values as a tensor with any offset, shape and stride."""
    identifier = ("storage", getattr(torch, kind, kind), key, "cpu", count)
    stored, *rest = (pickle.dumps(part, 2)[2:-1] for part in (identifier, *geometry, False, {}))  # no PROTO, no STOP
    return {"data.pkl": b"}U\x01xctorch._utils\n_rebuild_tensor_v2\n(" + stored + b"Q" + b"".join(rest) + b"tRs."}


@pytest.mark.parametrize(
    ("geometry", "expected"),
    [
        ((0, (500,), (1,)), VALUES.tolist()),
        ((499, (1,), (2**40,)), [499.0]),
        ((1, (2, 2), (3, 1)), [[1, 2], [4, 5]]),
        ((600, (0,), (1,)), []),
    ],
)
def test_geometries_that_fit(path: Path, geometry: Any, expected: Any) -> None:
    assert read(change(path, a_tensor(*geometry)))["x"] == expected


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (a_tensor(1, (500,), (1,)), "storage 0 has 500 values; the tensor's last is at 500"),
        (a_tensor(0, (2, 2), (499, 1)), "the tensor's last is at 500"),
        (a_tensor(0, (2,), (2**47,)), "the tensor's last is at"),
        (a_tensor(500, (), ()), "the tensor's last is at 500"),
        (a_tensor(-1, (5,), (1,)), "impossible shape, stride or offset"),
        (a_tensor(0, (5,), (-1,)), "impossible shape, stride or offset"),
        (a_tensor(0, (2**62,), (1,)), "impossible shape, stride or offset"),
        (a_tensor(0, (2.0,), (1,)), "impossible shape, stride or offset"),
        (a_tensor(0, (((),) * 3, 2**40), (1, 1)), "impossible shape, stride or offset"),
        (a_tensor(0, (2**40, 2**40), (0, 0)), "impossible shape"),
        (a_tensor(0, (0, 2**40, 2**40), (0, 0, 0)), "impossible shape"),
        (a_tensor(0, (5,), (1, 1)), "1 axes and 2 strides"),
        (a_tensor(0, (1,) * 40, (1,) * 40), "40 axes"),
        (a_tensor(0, "ab", (1, 1)), "a tensor without a storage or a shape"),
        (a_tensor(0, (5,), (1,), count=499), "storage 0 has 2000 bytes; expected 1996"),
        (a_tensor(0, (5,), (1,), count=-1), "impossible length"),
        (a_tensor(0, (5,), (1,), count=2**62), "impossible length"),
        (a_tensor(0, (5,), (1,), kind="DoubleStorage"), "storage 0 has 2000 bytes; expected 4000"),
        (a_tensor(0, (5,), (1,), kind="text"), "outside of the pickle that is not a storage"),
        (a_tensor(0, (5,), (1,), kind="Tensor"), "it holds an unknown torch.*Tensor; save only the state_dict"),
        (a_tensor(0, (5,), (1,), key="9"), "storage 9 is missing"),
        (a_tensor(0, (5,), (1,), key=0), "outside of the pickle that is not a storage"),
        (a_tensor(0, (5,), (1,), key="k" * 1000), "impossible length or name"),
    ],
)
def test_tensors_and_storages_that_do_not_fit(path: Path, changes: dict[str, bytes | None], words: str) -> None:
    with pytest.raises(SourceError, match=words):
        read(change(path, changes))


# Files of PyTorch before 1.6.

MACHINE = {"little_endian": True}


@pytest.mark.parametrize(
    ("pickles", "error", "words"),
    [
        ((LEGACY_MAGIC + 1,), UnsupportedSourceError, "a pickle, but not one of torch.save"),
        (({"weights": [1, 2]},), UnsupportedSourceError, "a pickle, but not one of torch.save"),
        ((LEGACY_MAGIC,), CorruptFileError, "not a readable pickle"),
        ((LEGACY_MAGIC, 1001, {"little_endian": False}, {}, []), UnsupportedSourceError, "big-endian machine"),
        ((LEGACY_MAGIC, 1001, MACHINE, {}, ["1"]), CorruptFileError, "list of storages does not match"),
        ((LEGACY_MAGIC, 1001, MACHINE, {}, None), CorruptFileError, "list of storages does not match"),
        ((LEGACY_MAGIC, 1001, MACHINE, {}, [((),)]), CorruptFileError, "list of storages does not match"),
    ],
)
def test_legacy_files_that_do_not_fit(path: Path, pickles: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        read(path, b"".join(pickle.dumps(value, 2) for value in pickles))


def test_a_legacy_count_that_does_not_fit(path: Path) -> None:
    torch.save(CONTENT, path, _use_new_zipfile_serialization=False)
    whole = path.read_bytes()
    place = whole.index(struct.pack("<Q", 500) + BYTES)
    for count in (499, 501, 2**63):
        with pytest.raises(CorruptFileError, match=rf"storage \d+ has {count} values; expected 500"):
            read(path, whole[:place] + struct.pack("<Q", count) + whole[place + 8 :])


@pytest.mark.parametrize("reader", [read_torch_file, read_safetensors_file])
def test_no_file_and_an_empty_one(tmp_path: Path, reader: Callable[[Path], Any]) -> None:
    (tmp_path / "empty").write_bytes(b"")
    for name in ("absent", ""):
        with pytest.raises(OSError, match=r"No such file|Is a directory"):
            reader(tmp_path / name)
    with pytest.raises(CorruptFileError, match="empty: damaged"):
        reader(tmp_path / "empty")


def test_a_file_without_its_end(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(9)}, path := tmp_path / "cut.pth")
    read_torch_file(path)  # negative control
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(CorruptFileError, match=r"truncated: its end, which lists the contents, is missing\. .*again\."):
        read_torch_file(path)


def test_an_end_that_speaks_of_several_disks(tmp_path: Path) -> None:
    """Python's `is_zipfile` raises for it, where it says False for other damage."""
    path, whole = tmp_path / "m.pth", tmp_path / "whole.pth"
    torch.save({"a": torch.zeros(1)}, whole)
    content = whole.read_bytes()
    end = content.rindex(b"PK\x05\x06")
    locator = b"PK\x06\x07" + struct.pack("<LQL", 0, 0, 2)  # of a Zip64 archive on two disks
    path.write_bytes(content[:end] + locator + content[end:])
    read_torch_file(whole)  # negative control
    with pytest.raises(CorruptFileError, match="disks"):
        read_torch_file(path)
    with pytest.raises(ModelFileError, match="disks"):
        load_model(path)
