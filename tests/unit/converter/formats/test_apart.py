"""Reading a file in another process: results come back, and whatever goes wrong there ends in one error here."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from converter.errors import CorruptFileError, UnsupportedSourceError
from converter.formats import apart
from support import file_work

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits the memory of a process")


@pytest.fixture(params=["fork", "new interpreter"])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A file to read; with a second thread in this process, a fork would not be safe."""
    (tmp_path / "file").write_text("content")
    if request.param == "fork":
        yield tmp_path / "file"
        return
    done = threading.Event()
    thread = threading.Thread(target=done.wait)
    thread.start()
    yield tmp_path / "file"
    done.set()
    thread.join()


def test_result_and_bytes_come_back(target: Path, capfd: pytest.CaptureFixture[str]) -> None:
    result, written = apart.read_apart(file_work.echo, target)
    assert result["text"] == "content"
    assert result["pid"] != os.getpid()
    assert result["is_fork"] == (sys.platform == "linux" and threading.active_count() == 1)
    assert written[:7] == b"values\n"
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("work", "error", "words"),
    [
        (file_work.refuse, UnsupportedSourceError, "^it holds music$"),
        (file_work.fail, RuntimeError, r"(?s)Traceback.*ZeroDivisionError: a fault of the program"),
        (file_work.crash, CorruptFileError, "the library that reads it crashed"),
        (file_work.hang, CorruptFileError, "reading it took longer than 1 seconds"),
        pytest.param(file_work.fill_memory, RuntimeError, "MemoryError", marks=LINUX),
    ],
)
def test_every_fault_is_one_error(
    target: Path, work: apart.Work, error: type[Exception], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(apart, "LIMIT_SECONDS", 1 if work is file_work.hang else 60)
    with pytest.raises(error, match=words):
        apart.read_apart(work, target)
