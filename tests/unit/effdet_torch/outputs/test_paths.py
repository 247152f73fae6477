"""Names of files: which are streams, and which are the same file."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from effdet_torch.errors import OverwriteError
from effdet_torch.outputs.paths import STDOUT, RunFiles, descriptor, is_stream


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder with two files and a folder."""
    monkeypatch.chdir(tmp_path)
    Path("input").write_text("precious")
    Path("other").write_text("precious")
    Path("folder").mkdir()
    return tmp_path


NAMES: dict[str, Callable[[Path], object]] = {
    "input": lambda path: path,
    "folder/../input": lambda path: path,
    "hard": lambda path: path.hardlink_to("input"),
    "soft": lambda path: path.symlink_to("input"),
    "folder/far": lambda path: path.symlink_to("../input"),
}


@pytest.mark.parametrize("name", NAMES)
def test_every_name_of_an_input_is_refused(folder: Path, name: str) -> None:
    NAMES[name](Path(name))
    files = RunFiles((("--report", Path(name)),), (Path("other"),))
    files.require_apart()  # negative control: the input is not known yet
    with pytest.raises(OverwriteError, match=rf"--report {name} would overwrite input, which is read; choose another"):
        files.require_apart([Path("input")])
    with pytest.raises(OverwriteError, match="--out other would overwrite other"):
        files.require_apart(outputs=[("--out", Path("other"))])


@pytest.mark.parametrize(
    ("first", "second"),
    [("new", "folder/../new"), ("other", "other"), ("folder", "folder/new"), ("folder/new", "folder")],
)
def test_two_outputs_are_not_one_file(folder: Path, first: str, second: str) -> None:
    with pytest.raises(OverwriteError, match="would overwrite"):
        RunFiles((("OUT", Path(first)), ("--report", Path(second)))).require_apart()
    RunFiles((("OUT", Path(first)), ("OUT", Path(second)))).require_apart()  # what one option does is its own affair


def test_what_is_not_a_conflict(folder: Path) -> None:
    outputs = (("OUT", Path("folder/new")), ("--report", Path("folder/report")), ("--json", Path("missing")))
    RunFiles(outputs, (Path("input"), Path("folder"), Path("missing"))).require_apart()
    RunFiles((), (Path("input"), Path("input"))).require_apart()


def test_stdout_has_many_names_and_is_taken_once(folder: Path) -> None:
    Path("link").symlink_to("/dev/stdout")
    for name in ("/dev/stdout", "/dev/fd/1", "/proc/self/fd/1", "link"):
        assert (descriptor(Path(name)), is_stream(Path(name))) == (1, True)
        with pytest.raises(OverwriteError):
            RunFiles((("--json", STDOUT), ("--report", Path(name)))).require_apart()


def test_files_folders_and_circles_are_not_streams(folder: Path) -> None:
    Path("1").touch()
    Path("circle").symlink_to("circle")
    for name in ("1", "input", "folder", "missing", "circle", "missing/1"):
        assert (descriptor(Path(name)), is_stream(Path(name))) == (None, False)
    os.mkfifo("pipe")
    assert (descriptor(Path("pipe")), is_stream(Path("pipe"))) == (None, True)
