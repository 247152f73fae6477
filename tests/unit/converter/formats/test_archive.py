"""Archives: what is extracted, what is refused, and that nothing stays behind."""

from __future__ import annotations

import gzip
import io
import tarfile
import tempfile
import time
from collections.abc import Callable
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


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which archives are extracted."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def pack(tmp_path: Path, temporary: Path) -> Callable[..., Path]:
    """A function that packs members into an archive."""

    def write(*members: tuple[tarfile.TarInfo, bytes]) -> Path:
        path = tmp_path / "model.tar.gz"
        path.write_bytes(gzip.compress(tar_bytes(*members)))
        return path

    return write


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


def test_extracts_the_files_of_a_checkpoint_only(pack: Callable[..., Path], temporary: Path) -> None:
    others = [
        member("d0/._model.index"),
        member("d0/eval/events.out"),
        member("setup.py"),
        member("d0/model.index.exe"),
    ]
    archive = ExtractedArchive(pack(*WHOLE, *others))
    names = ["checkpoint", "config.yaml", "model.data-00000-of-00001", "model.index", "model.meta"]
    assert extracted(archive.folder) == [f"d0/{name}" for name in names]
    assert (archive.folder / "d0" / "model.data-00000-of-00001").read_bytes() == b"x" * 3_000_000
    assert archive.skipped == ["d0/._model.index", "d0/eval/events.out", "setup.py"]
    assert archive.describe(archive.folder / "d0" / "model.index") == f"{archive.path} (d0/model.index)"
    archive.close()
    assert not list(temporary.iterdir())


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
    ],
)
def test_refuses_what_leads_out(
    pack: Callable[..., Path], temporary: Path, info: tuple[tarfile.TarInfo, bytes], text: str
) -> None:
    with pytest.raises(UnsupportedSourceError, match=rf"model\.tar\.gz: .*{text}"):
        ExtractedArchive(pack(*WHOLE, info))
    assert not list(temporary.iterdir())


def test_a_linked_folder_cannot_carry_files_out(pack: Callable[..., Path], tmp_path: Path) -> None:
    """The link itself is not part of a checkpoint and so is never made; the file lands in a real folder."""
    outside = tmp_path / "outside"
    outside.mkdir()
    link = member("d0", b"", type=tarfile.SYMTYPE, linkname=str(outside))
    archive = ExtractedArchive(pack(link, member("d0/model.index")))
    assert extracted(archive.folder) == ["d0/model.index"]
    assert not list(outside.iterdir())
    archive.close()


def test_refuses_a_file_that_comes_twice(pack: Callable[..., Path], temporary: Path) -> None:
    with pytest.raises(CorruptFileError, match="twice"):
        ExtractedArchive(pack(*WHOLE, member("d0/model.index", b"other")))
    assert not list(temporary.iterdir())


@pytest.mark.parametrize("name", ["model.index", "zeros.bin"])  # the bytes of skipped members cost time, too
def test_refuses_more_bytes_than_the_limit(pack: Callable[..., Path], temporary: Path, name: str) -> None:
    path = pack(member("checkpoint"), member(name, bytes(2_000_000)))
    with pytest.raises(UnsupportedSourceError, match="expands to more than 1500000 bytes"):
        ExtractedArchive(path, max_bytes=1_500_000)
    assert not list(temporary.iterdir())
    ExtractedArchive(path, max_bytes=2_500_000).close()


def test_refuses_a_declared_size_before_reading(tmp_path: Path, temporary: Path) -> None:
    info = tarfile.TarInfo("model.index")
    info.size = 1 << 50
    path = tmp_path / "bomb.tar.gz"
    path.write_bytes(gzip.compress(info.tobuf(tarfile.GNU_FORMAT) + bytes(10_000)))
    started = time.perf_counter()
    with pytest.raises(UnsupportedSourceError, match="expands to more"):
        ExtractedArchive(path)
    assert time.perf_counter() - started < 1


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME])
def test_refuses_a_header_of_gigabytes(tmp_path: Path, temporary: Path, kind: bytes) -> None:
    """The body of such a header would be read into memory as a whole."""
    info = tarfile.TarInfo("header")
    info.type, info.size = kind, 1 << 33
    path = tmp_path / "bomb.tar.gz"
    path.write_bytes(gzip.compress(info.tobuf(tarfile.GNU_FORMAT) + bytes(50_000_000), 1))
    with pytest.raises(CorruptFileError, match="belong to no file"):
        ExtractedArchive(path)
    assert not list(temporary.iterdir())


def test_refuses_more_files_than_the_limit(pack: Callable[..., Path]) -> None:
    path = pack(*(member(f"{place}.txt", b"") for place in range(10_001)))
    with pytest.raises(UnsupportedSourceError, match="10000 files"):
        ExtractedArchive(path)


def test_notices_every_truncation(pack: Callable[..., Path], tmp_path: Path, temporary: Path) -> None:
    whole = pack(*WHOLE).read_bytes()
    path = tmp_path / "cut.tar.gz"
    for size in [2, 5, 9, 10, *range(11, len(whole), len(whole) // 40), len(whole) - 8, len(whole) - 1]:
        path.write_bytes(whole[:size])
        with pytest.raises(CorruptFileError, match=r"cut\.tar\.gz: "):
            ExtractedArchive(path)
    assert not list(temporary.iterdir())


def test_notices_every_damaged_byte(pack: Callable[..., Path], tmp_path: Path, temporary: Path) -> None:
    """gzip's checksum covers all unpacked bytes; of the packed ones only the spare bits of the last do not count."""
    whole = pack(*WHOLE[:3]).read_bytes()
    path = tmp_path / "damaged.tar.gz"
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
    assert not list(temporary.iterdir())


def test_notices_a_tar_file_that_was_cut_before_it_was_compressed(tmp_path: Path) -> None:
    path = tmp_path / "cut.tgz"
    path.write_bytes(gzip.compress(tar_bytes(*WHOLE)[:100_000]))
    with pytest.raises(CorruptFileError, match="cut"):
        ExtractedArchive(path)


def test_gzip_of_something_else(tmp_path: Path) -> None:
    path = tmp_path / "page.tar.gz"
    path.write_bytes(gzip.compress(b"<html>not found</html>" * 100))
    with pytest.raises(CorruptFileError, match="not a whole tar archive"):
        ExtractedArchive(path)


def test_no_room_on_the_disk(pack: Callable[..., Path], temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("shutil.copyfileobj", full)
    with pytest.raises(SourceError, match="cannot be unpacked: No space left"):
        ExtractedArchive(pack(*WHOLE))
    assert not list(temporary.iterdir())
