"""Files that have no end, or claim more bytes than anything needs: refused before they are read."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from effdet_torch.untrusted.files import map_file, read_bytes, read_text, require_regular

READERS: tuple[Callable[[Path, int], object], ...] = (require_regular, read_bytes, map_file, read_text)
ALL = pytest.mark.parametrize("read", READERS)


@ALL
def test_a_file_up_to_the_limit_is_read(tmp_path: Path, read: Callable[[Path, int], object]) -> None:
    (tmp_path / "a").write_bytes(b"12345")
    (tmp_path / "link").symlink_to("a")
    for name in ("a", "link"):
        assert read(tmp_path / name, 5) in (5, b"12345", "12345")
        with pytest.raises(OSError, match="it has 5 bytes; expected at most 4"):
            read(tmp_path / name, 4)


@ALL
def test_a_sparse_file_is_refused_by_its_size(tmp_path: Path, read: Callable[[Path, int], object]) -> None:
    with (tmp_path / "sparse").open("wb") as stream:
        stream.truncate(300 << 30)
    with pytest.raises(OSError, match=f"it has {300 << 30} bytes"):
        read(tmp_path / "sparse", 1 << 30)


@ALL
@pytest.mark.timeout(20)  # opening a pipe without a writer waits for ever
def test_pipes_devices_folders_and_loops_are_refused(tmp_path: Path, read: Callable[[Path, int], object]) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(OSError, match="it is a pipe or a device; copy its content to a file first"):
            read(path, 100)
    for path in (tmp_path, tmp_path / "absent", tmp_path / "loop", tmp_path / "a\0b"):
        with pytest.raises(OSError, match=r"directory|No such file|symbolic links|Invalid|null byte"):
            read(path, 100)


def test_an_empty_file_is_mapped_as_nothing(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    assert bytes(map_file(tmp_path / "empty")) == b""


def test_text_with_any_line_ends_and_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("\ufeffä\r\nb\rc".encode())
    assert read_text(tmp_path / "a.txt") == "ä\nb\nc"
    (tmp_path / "a.txt").write_bytes(b"\xe4")
    with pytest.raises(ValueError, match="utf-8"):
        read_text(tmp_path / "a.txt")
