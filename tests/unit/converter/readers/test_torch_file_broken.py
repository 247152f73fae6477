"""PyTorch files that are damaged, cut off, or something else: one clear error that names the file."""

from __future__ import annotations

import io
import pickle
import struct
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from converter.errors import CorruptFileError, SourceError, UnsupportedSourceError
from converter.readers.pytorch import torch_file
from converter.readers.pytorch.torch_file import LEGACY_MAGIC, read_torch_file

VALUES = torch.arange(500, dtype=torch.float32)
CONTENT = {"values": VALUES, "rows": VALUES[:6].reshape(2, 3), "count": torch.tensor(7), "note": "text"}


def saved(path: Path, is_zip: bool = True, content: Any = CONTENT) -> Path:
    torch.save(content, path, _use_new_zipfile_serialization=is_zip)
    return path


def read(path: Path, data: bytes | None = None) -> Any:
    """Read a file, and all values of its tensors."""
    if data is not None:
        path.write_bytes(data)
    content = read_torch_file(path)
    return {key: value.array().tolist() if hasattr(value, "array") else value for key, value in content.items()}


WHOLE = {"values": VALUES.tolist(), "rows": [[0, 1, 2], [3, 4, 5]], "count": 7, "note": "text"}


def members_of(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {info.filename: archive.read(info) for info in archive.infolist()}


def zipped(path: Path, members: Mapping[str, bytes], method: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def changed(path: Path, changes: Mapping[str, bytes | None]) -> Path:
    """Save a file whose members are others, with the right checksums; None leaves one out."""
    members = members_of(saved(path)) | {f"{path.stem}/{name}": data for name, data in changes.items()}
    return zipped(path, {name: data for name, data in members.items() if data is not None})


def test_every_bit_of_the_values_is_covered(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.pth")
    whole = path.read_bytes()
    assert read(path) == WHOLE
    begin, pickled = whole.index(VALUES.numpy().tobytes()), members_of(path)["a/data.pkl"]
    for place in [*range(begin, begin + 2000, 37), begin + 1999]:
        for bit in (0, 7):
            data = bytearray(whole)
            data[place] ^= 1 << bit
            with pytest.raises(CorruptFileError, match=r"storage 0 does not match its checksum"):
                read(path, data)
    for place in range(whole.index(pickled), whole.index(pickled) + len(pickled)):
        data = bytearray(whole)
        data[place] ^= 1
        with pytest.raises(CorruptFileError, match=r"a\.pth: damaged PyTorch file: data\.pkl does not match its check"):
            read(path, data)


def test_files_without_checksums_are_read(tmp_path: Path) -> None:
    torch.serialization.set_crc32_options(False)
    try:
        path = saved(tmp_path / "a.pth")
    finally:
        torch.serialization.set_crc32_options(True)
    with zipfile.ZipFile(path) as archive:
        assert {info.CRC for info in archive.infolist()} == {0}
    assert read(path) == WHOLE


@pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "legacy"])
def test_every_truncation(tmp_path: Path, is_zip: bool) -> None:
    path = saved(tmp_path / "a.pth", is_zip)
    whole = path.read_bytes()
    for size in [*range(2, 1200, 7), *range(1200, len(whole), 101), len(whole) - 1]:
        with pytest.raises(CorruptFileError, match=r"a\.pth: damaged PyTorch file: .*Download or copy it again"):
            read(path, whole[:size])
    assert read(path, whole) == WHOLE


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"data/0": None}, "storage 0 is missing"),
        ({"data/0": VALUES[:-1].numpy().tobytes()}, "storage 0 has 1996 bytes; expected 2000"),
        ({"data/0": bytes(2001)}, "storage 0 has 2001 bytes; expected 2000"),
        ({"data/0": b""}, "storage 0 has 0 bytes; expected 2000"),
        ({"data.pkl": b""}, "not a readable pickle"),
        ({"data.pkl": b"N"}, "not a readable pickle"),
    ],
)
def test_members_that_do_not_fit(tmp_path: Path, changes: dict[str, bytes | None], words: str) -> None:
    with pytest.raises(CorruptFileError, match=rf"a\.pth: damaged PyTorch file: .*{words}"):
        read(changed(tmp_path / "a.pth", changes))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"byteorder": b"big"}, "big-endian machine; save it again"),
        ({"constants.pkl": b""}, "a TorchScript program; give the state_dict"),
        ({"data.pkl": None}, "an archive, but not one of torch.save"),
    ],
)
def test_other_archives_are_named(tmp_path: Path, changes: dict[str, bytes | None], words: str) -> None:
    with pytest.raises(UnsupportedSourceError, match=rf"a\.pth: .*{words}"):
        read(changed(tmp_path / "a.pth", changes))


def test_a_changed_file_is_read_if_it_fits(tmp_path: Path) -> None:
    """The control of the two tests above."""
    values = VALUES.flip(0).clone()
    path = changed(tmp_path / "a.pth", {"data/0": values.numpy().tobytes(), "byteorder": None, "more": b"x"})
    assert read(path)["values"] == values.tolist()


def test_torchscript_of_torch_itself(tmp_path: Path) -> None:
    with warnings.catch_warnings():  # deprecated, and yet there are such files
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.ones(1, 2)), tmp_path / "a.pt")
    with pytest.raises(UnsupportedSourceError, match="a TorchScript program"):
        read_torch_file(tmp_path / "a.pt")


def test_compressed_members(tmp_path: Path) -> None:
    members = members_of(saved(tmp_path / "a.pth"))
    with pytest.raises(CorruptFileError, match="is compressed, or not where the archive says"):
        read(zipped(tmp_path / "a.pth", members, zipfile.ZIP_DEFLATED))


def test_members_that_are_not_where_the_archive_says(tmp_path: Path) -> None:
    whole = saved(tmp_path / "a.pth").read_bytes()
    entry = whole.index(b"PK\x01\x02")
    for offset in (1, len(whole) - 10, 2**32 - 2):
        data = whole[: entry + 42] + struct.pack("<I", offset) + whole[entry + 46 :]
        with pytest.raises(CorruptFileError, match="not where the archive says"):
            read(tmp_path / "a.pth", data)


def test_too_large_a_pickle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path / "a.pth")
    monkeypatch.setattr(torch_file, "MAX_PICKLE_BYTES", 100)
    with pytest.raises(UnsupportedSourceError, match="bytes beside its tensors; save only the state_dict"):
        read(path)


# Pickles that torch.save does not write.


class Geometry:
    """A tensor of 500 float32 values with any geometry."""

    def __init__(self, *geometry: Any, kind: str = "FloatStorage", count: Any = 500, key: Any = "0") -> None:
        self.geometry, self.identifier = geometry, ("storage", getattr(torch, kind, kind), key, "cpu", count)

    def __reduce__(self) -> Any:
        return torch._utils._rebuild_tensor_v2, (self, *self.geometry, False, {})


def with_geometry(path: Path, value: Geometry) -> Path:
    class Pickler(pickle.Pickler):
        seen = False

        def persistent_id(self, item: Any) -> Any:
            if item is not value or not self.seen:  # the object itself first, then its storage
                self.seen = self.seen or item is value
                return None
            return value.identifier

    stream = io.BytesIO()
    Pickler(stream, 2).dump({"x": value})
    return changed(path, {"data.pkl": stream.getvalue()})


@pytest.mark.parametrize(
    ("geometry", "expected"),
    [
        ((0, (500,), (1,)), VALUES.tolist()),
        ((499, (1,), (2**40,)), [499.0]),
        ((1, (2, 2), (3, 1)), [[1, 2], [4, 5]]),
        ((600, (0,), (1,)), []),
    ],
)
def test_geometries_that_fit(tmp_path: Path, geometry: Any, expected: Any) -> None:
    assert read(with_geometry(tmp_path / "a.pth", Geometry(*geometry)))["x"] == expected


@pytest.mark.parametrize(
    ("geometry", "words"),
    [
        ((1, (500,), (1,)), "storage 0 has 500 values; the tensor's last is at 500"),
        ((0, (2, 2), (499, 1)), "the tensor's last is at 500"),
        ((0, (2,), (2**47,)), "the tensor's last is at"),
        ((500, (), ()), "the tensor's last is at 500"),
        ((-1, (5,), (1,)), "impossible shape, stride or offset"),
        ((0, (5,), (-1,)), "impossible shape, stride or offset"),
        ((0, (2**62,), (1,)), "impossible shape, stride or offset"),
        ((0, (2.0,), (1,)), "impossible shape, stride or offset"),
        ((0, (2**40, 2**40), (0, 0)), "impossible shape"),
        ((0, (0, 2**40, 2**40), (0, 0, 0)), "impossible shape"),
        ((0, (5,), (1, 1)), "1 axes and 2 strides"),
        ((0, (1,) * 40, (1,) * 40), "40 axes"),
        ((0, "ab", (1, 1)), "without a shape"),
        ((0, (((),) * 3, 2**40), (1, 1)), "impossible shape"),
    ],
)
def test_geometries_that_do_not_fit(tmp_path: Path, geometry: Any, words: str) -> None:
    with pytest.raises(CorruptFileError, match=words):
        read(with_geometry(tmp_path / "a.pth", Geometry(*geometry)))


@pytest.mark.parametrize(
    ("storage", "words"),
    [
        ({"count": 499}, "storage 0 has 2000 bytes; expected 1996"),
        ({"count": -1}, "impossible length"),
        ({"count": 2**62}, "impossible length"),
        ({"kind": "DoubleStorage"}, "storage 0 has 2000 bytes; expected 4000"),
        ({"kind": "text"}, "outside of the pickle that is no storage"),
        ({"key": "9"}, "storage 9 is missing"),
        ({"key": 0}, "outside of the pickle that is no storage"),
        ({"key": "k" * 1000}, "impossible length or name"),
    ],
)
def test_storages_that_do_not_fit(tmp_path: Path, storage: dict[str, Any], words: str) -> None:
    with pytest.raises(CorruptFileError, match=words):
        read(with_geometry(tmp_path / "a.pth", Geometry(0, (5,), (1,), **storage)))


def test_an_unknown_kind_of_storage_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedSourceError, match=r"a\.pth: it holds a .*Tensor, which is not known; save only"):
        read(with_geometry(tmp_path / "a.pth", Geometry(0, (5,), (1,), kind="Tensor")))


# Files of PyTorch before 1.6.


def legacy(path: Path, *pickles: Any, rest: bytes = b"") -> Path:
    path.write_bytes(b"".join(pickle.dumps(value, 2) for value in pickles) + rest)
    return path


MACHINE = {"little_endian": True}


@pytest.mark.parametrize(
    ("pickles", "error", "words"),
    [
        ((LEGACY_MAGIC + 1,), UnsupportedSourceError, "a pickle, but not one of torch.save"),
        (({"weights": [1, 2]},), UnsupportedSourceError, "a pickle, but not one of torch.save"),
        ((LEGACY_MAGIC,), CorruptFileError, "not a readable pickle"),
        ((LEGACY_MAGIC, 1001, {"little_endian": False}, {}, []), UnsupportedSourceError, "big-endian machine"),
        ((LEGACY_MAGIC, 1001, MACHINE, {}, ["1"]), CorruptFileError, "list of storages is not that of the tensors"),
        ((LEGACY_MAGIC, 1001, MACHINE, {}, None), CorruptFileError, "list of storages is not that of the tensors"),
        ((LEGACY_MAGIC, 1001, MACHINE, {}, [((),)]), CorruptFileError, "list of storages is not that of the tensors"),
    ],
)
def test_legacy_files_that_do_not_fit(tmp_path: Path, pickles: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        read_torch_file(legacy(tmp_path / "a.pth", *pickles))


def test_a_legacy_count_that_does_not_fit(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.pth", is_zip=False)
    whole = path.read_bytes()
    place = whole.index(struct.pack("<Q", 500) + VALUES.numpy().tobytes())
    for count in (499, 501, 2**63):
        with pytest.raises(CorruptFileError, match=rf"storage \d+ has {count} values; expected 500"):
            read(path, whole[:place] + struct.pack("<Q", count) + whole[place + 8 :])


def test_no_file_and_an_empty_one(tmp_path: Path) -> None:
    (tmp_path / "empty.pth").write_bytes(b"")
    for name in ("absent.pth", "empty.pth", ""):
        with pytest.raises(SourceError, match=rf"{name}: cannot be read"):
            read_torch_file(tmp_path / name)
