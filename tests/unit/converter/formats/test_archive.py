"""Archives: what is extracted, what is refused, and that nothing is left behind."""

from __future__ import annotations

import gzip
import io
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from converter.errors import CorruptFileError, SourceError, UnsupportedSourceError
from converter.formats.archive import ExtractedArchive


def member(name: str, data: bytes = b"data", **attributes: object) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for key, value in attributes.items():
        setattr(info, key, value)
    return info, data


def tar_bytes(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for info, data in members:
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder in which archives are extracted; it must be empty in the end."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    assert not list(folder.iterdir())


def pack(folder: Path, *members: tuple[tarfile.TarInfo, bytes]) -> Path:
    path = folder / "model.tar.gz"
    path.write_bytes(gzip.compress(tar_bytes(*members)))
    return path


def extracted(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


WHOLE = [
    member("d0/", b"", type=tarfile.DIRTYPE),
    member("d0/checkpoint"),
    member("./d0/model.index"),
    member("d0/model.data-00000-of-00001", b"x" * 3_000_000),
    member("d0/model.meta"),
    member("d0/config.yaml"),
]
OTHERS = ["d0/._model.index", "d0/eval/events.out", "setup.py", "d0/model.index.exe"]


def test_extracts_the_files_of_a_checkpoint_only(tmp_path: Path) -> None:
    archive = ExtractedArchive(pack(tmp_path, *WHOLE, *map(member, OTHERS)))
    names = ["checkpoint", "config.yaml", "model.data-00000-of-00001", "model.index", "model.meta"]
    assert extracted(archive.folder) == [f"d0/{name}" for name in names]
    assert (archive.folder / "d0" / "model.data-00000-of-00001").read_bytes() == b"x" * 3_000_000
    assert archive.skipped == OTHERS[:3]
    assert archive.describe(archive.folder / "d0" / "model.index") == f"{archive.path} (d0/model.index)"
    archive.close()


@pytest.mark.parametrize(
    ("info", "text"),
    [
        (member("../model.index"), "leads out"),
        (member("d0/../../model.index"), "leads out"),
        (member("/tmp/model.index"), "leads out"),
        (member("C:\\model.index"), "leads out"),
        (member("d0\\..\\..\\model.index"), "leads out"),
        (member("model.index", b"", type=tarfile.SYMTYPE, linkname="/etc/passwd"), "is a link"),
        (member("model.index", b"", type=tarfile.LNKTYPE, linkname="checkpoint"), "is a link"),
        (member("model.index", b"", type=tarfile.FIFOTYPE), "is a link or a special file"),
        (member("d0/model.index", b"other"), "is in the archive twice"),
    ],
)
def test_refuses_members_that_do_not_belong_there(
    tmp_path: Path, info: tuple[tarfile.TarInfo, bytes], text: str
) -> None:
    with pytest.raises(SourceError, match=rf"model\.tar\.gz: .*{text}"):
        ExtractedArchive(pack(tmp_path, *WHOLE, info))


def test_a_linked_folder_cannot_carry_files_out(tmp_path: Path) -> None:
    """The link itself is not part of a checkpoint and so is never created; the file is written to a real folder."""
    outside = tmp_path / "outside"
    outside.mkdir()
    link = member("d0", b"", type=tarfile.SYMTYPE, linkname=str(outside))
    archive = ExtractedArchive(pack(tmp_path, link, member("d0/model.index")))
    assert extracted(archive.folder) == ["d0/model.index"]
    assert not list(outside.iterdir())
    archive.close()


@pytest.mark.parametrize("name", ["model.index", "zeros.bin"])  # the bytes of skipped members cost time, too
def test_refuses_more_bytes_than_the_limit(tmp_path: Path, name: str) -> None:
    path = pack(tmp_path, member("checkpoint"), member(name, bytes(2_000_000)))
    with pytest.raises(UnsupportedSourceError, match="expands to more than 1500000 bytes"):
        ExtractedArchive(path, max_bytes=1_500_000)
    ExtractedArchive(path, max_bytes=2_500_000).close()


@pytest.mark.parametrize(
    ("kind", "size", "text"),
    [
        (tarfile.REGTYPE, 1 << 50, "expands to more"),
        # The content of these headers would be read into memory as a whole.
        (tarfile.XHDTYPE, 1 << 33, "belong to no file"),
        (tarfile.GNUTYPE_LONGNAME, 1 << 33, "belong to no file"),
    ],
)
def test_refuses_a_declared_size_before_reading(tmp_path: Path, kind: bytes, size: int, text: str) -> None:
    info = tarfile.TarInfo("model.index")
    info.type, info.size = kind, size
    path = tmp_path / "large.tar.gz"
    path.write_bytes(gzip.compress(info.tobuf(tarfile.GNU_FORMAT) + bytes(10_000_000), 1))
    started = time.perf_counter()
    with pytest.raises(SourceError, match=text):
        ExtractedArchive(path)
    assert time.perf_counter() - started < 2


def test_refuses_more_files_than_the_limit(tmp_path: Path) -> None:
    path = pack(tmp_path, *(member(f"{place}.txt", b"") for place in range(10_001)))
    with pytest.raises(UnsupportedSourceError, match="10000 files"):
        ExtractedArchive(path)


def test_notices_every_truncation(tmp_path: Path) -> None:
    path = pack(tmp_path, *WHOLE)
    whole = path.read_bytes()
    for size in [2, 5, 9, 10, *range(11, len(whole), len(whole) // 40), len(whole) - 8, len(whole) - 1]:
        path.write_bytes(whole[:size])
        with pytest.raises(CorruptFileError, match=r"model\.tar\.gz: "):
            ExtractedArchive(path)


def test_notices_every_damaged_byte(tmp_path: Path) -> None:
    """gzip's checksum covers all unpacked bytes; of the packed ones only the spare bits of the last do not count."""
    path = pack(tmp_path, *WHOLE[:3])
    whole = path.read_bytes()
    unnoticed = 0
    for place in range(10, len(whole)):
        damaged = whole[:place] + bytes([whole[place] ^ 0x10]) + whole[place + 1 :]
        path.write_bytes(damaged)
        try:
            ExtractedArchive(path).close()
        except SourceError:
            continue
        assert gzip.decompress(damaged) == gzip.decompress(whole)
        unnoticed += 1
    assert unnoticed <= 1


@pytest.mark.parametrize("content", [tar_bytes(*WHOLE)[:100_000], b"<html>not found</html>" * 100])
def test_gzip_of_something_else(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.tgz").write_bytes(gzip.compress(content))
    with pytest.raises(CorruptFileError, match=r"a\.tgz: compressed with gzip, but not a whole tar archive"):
        ExtractedArchive(tmp_path / "a.tgz")


def test_no_room_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("shutil.copyfileobj", full)
    with pytest.raises(SourceError, match="cannot be unpacked: No space left"):
        ExtractedArchive(pack(tmp_path, *WHOLE))


def test_zeros_behind_the_data_are_not_counted_one_by_one_for_hours(tmp_path: Path) -> None:
    path = pack(tmp_path, *WHOLE)
    with path.open("ab") as stream:
        stream.truncate(path.stat().st_size + 10_240)  # tapes were written in blocks
    ExtractedArchive(path).close()
    with path.open("ab") as stream:
        stream.truncate(15 << 30)
    start = time.perf_counter()
    with pytest.raises(CorruptFileError, match="more than 1048576 zeros follow the data"):
        ExtractedArchive(path)
    assert time.perf_counter() - start < 20
