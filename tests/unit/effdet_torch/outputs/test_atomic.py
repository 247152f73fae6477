"""Files in their place: links, pipes, descriptors, and what killed runs leave. More in converter/writers."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path
from typing import IO

import pytest

from effdet_torch.errors import OutputError
from effdet_torch.outputs import atomic
from effdet_torch.outputs.atomic import is_temporary, replacing


def write(path: Path, content: bytes) -> None:
    with replacing(path) as stream:
        stream.write(content[:1])
        stream.seek(0)  # as some writers do
        stream.write(content)


@pytest.mark.parametrize("before", [b"old", None], ids=["a file", "nothing yet"])
def test_a_link_stays_and_its_target_is_replaced(tmp_path: Path, before: bytes | None) -> None:
    (tmp_path / "folder").mkdir()
    target, link, second = tmp_path / "folder" / "target", tmp_path / "link", tmp_path / "second"
    if before is not None:
        target.write_bytes(before)
    link.symlink_to("folder/target")
    second.symlink_to("link")
    write(second, b"new")
    assert (link.is_symlink(), second.is_symlink()) == (True, True)
    assert (target.is_symlink(), target.read_bytes()) == (False, b"new")
    assert list((tmp_path / "folder").iterdir()) == [target]


def test_a_link_to_itself_stays(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("link")
    with pytest.raises(OutputError, match="link cannot be written: Too many levels of symbolic links"):
        write(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink()
    assert len(list(tmp_path.iterdir())) == 1


def test_a_pipe_gets_the_bytes_and_stays_a_pipe(tmp_path: Path) -> None:
    pipe, received = tmp_path / "pipe", list[bytes]()
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: received.append(pipe.read_bytes()), daemon=True)
    reader.start()
    write(pipe, b"x" * 100_000)
    reader.join(10)
    assert received == [b"x" * 100_000]
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert list(tmp_path.iterdir()) == [pipe]


def test_a_descriptor_is_written_where_it_is_and_its_file_stays(tmp_path: Path) -> None:
    file = tmp_path / "file"
    link = tmp_path / "link"
    with file.open("w+b", buffering=0) as stream:
        number = file.stat().st_ino
        link.symlink_to(f"/dev/fd/{stream.fileno()}")
        stream.write(b"before ")
        write(Path(f"/dev/fd/{stream.fileno()}"), b"first ")
        write(link, b"second ")
        stream.write(b"after")
    assert file.read_bytes() == b"before first second after"
    assert file.stat().st_ino == number
    assert link.is_symlink()


def test_a_stream_gets_nothing_from_a_run_that_fails(tmp_path: Path) -> None:
    def fail(stream: IO[bytes]) -> None:
        stream.write(b"half")
        raise RuntimeError

    reading, writing = os.pipe()
    with pytest.raises(RuntimeError), replacing(Path(f"/dev/fd/{writing}")) as stream:
        fail(stream)
    os.close(writing)
    with os.fdopen(reading, "rb") as received:
        assert received.read() == b""


def test_a_pipe_that_nobody_reads_is_an_output_error() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with pytest.raises(OutputError, match=rf"/dev/fd/{writing} cannot be written: Broken pipe; choose another output"):
        write(Path(f"/dev/fd/{writing}"), b"x")
    os.close(writing)


# What a killed run leaves.


def test_what_a_killed_run_left_disappears_and_nothing_else(tmp_path: Path) -> None:
    others = {".model2.part", "model.part", ".model.k1ll_d00.part", "notes.part"}
    for name in (".model.part", *others):
        (tmp_path / name).write_bytes(bytes(1000))
    write(tmp_path / "model", b"new")
    assert {path.name for path in tmp_path.iterdir()} == {"model", *others}
    assert (tmp_path / "model").read_bytes() == b"new"


def test_two_runs_may_write_the_same_file(tmp_path: Path) -> None:
    with replacing(tmp_path / "model") as slow:
        slow.write(b"slow")
        write(tmp_path / "model", b"fast")
        assert (tmp_path / "model").read_bytes() == b"fast"
    assert (tmp_path / "model").read_bytes() == b"slow"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_without_the_lock_they_would_disturb_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control."""
    monkeypatch.setattr(atomic, "_lock", lambda handle: True)
    with pytest.raises(OutputError, match="No such file"), replacing(tmp_path / "model"):
        write(tmp_path / "model", b"fast")


def test_where_locks_do_not_exist_the_leftover_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(atomic, "_lock", lambda handle: None)
    write(tmp_path / "model", b"first")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    (tmp_path / ".model.part").write_bytes(b"old")
    write(tmp_path / "model", b"new")
    assert {path.name for path in tmp_path.iterdir()} == {"model", ".model.part"}
    assert (tmp_path / ".model.part").read_bytes() == b"old"


@pytest.mark.parametrize("kind", ["hard", "soft"])
def test_a_leftover_with_another_name_is_not_used(tmp_path: Path, kind: str) -> None:
    precious, part = tmp_path / "precious", tmp_path / ".model.part"
    precious.write_bytes(b"precious")
    part.hardlink_to(precious) if kind == "hard" else part.symlink_to(precious)
    write(tmp_path / "model", b"new")
    assert (precious.read_bytes(), (tmp_path / "model").read_bytes()) == (b"precious", b"new")
    assert not (tmp_path / "model").is_symlink()


@pytest.mark.parametrize("is_new", [True, False])
def test_a_temporary_file_that_another_run_just_moved_into_place_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_new: bool
) -> None:
    lock, part = atomic._lock, tmp_path / ".model.part"
    if not is_new:
        part.write_bytes(b"of the other run")

    def late(handle: int) -> bool | None:
        part.write_bytes(b"of the other run")
        part.rename(tmp_path / "other")
        return lock(handle)

    monkeypatch.setattr(atomic, "_lock", late)
    write(tmp_path / "model", b"new")
    assert (tmp_path / "other").read_bytes() == b"of the other run"
    assert (tmp_path / "model").read_bytes() == b"new"


@pytest.mark.parametrize(
    ("name", "is_one"),
    [
        (".model.part", True),
        (".model.k1ll_d00.part", True),
        ("model.part", False),
        (".model", False),
        (".models.part", False),
        (".model.K1LL_D00.part", False),
        (".model.k1ll_d00.part.txt", False),
    ],
)
def test_names_of_temporary_files(name: str, is_one: bool) -> None:
    assert is_temporary(name, "model") is is_one
