"""Commands whose output cannot be written, or whose user gives up: one line, no traceback."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from support.coco_samples import write_coco, write_model
from support.commands import run_here, script

FULL = Path("/dev/full")
needs_full = pytest.mark.skipif(not FULL.exists(), reason="needs /dev/full, a device of Linux")
LIST = ("effdet-convert", "--list")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model, and images with names that ASCII and UTF-8 lack."""
    root = tmp_path_factory.mktemp("streams")
    write_model(root / "model.pth")
    write_coco(root / "coco")
    (root / "images").mkdir()
    for name in ("ä.png", "\udc80.png"):
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(root / "a.png")
        (root / "a.png").rename(root / "images" / name)
    return root


def run(folder: Path, name: str, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "encoding": "utf-8"} | options
    return subprocess.run([script(name), *arguments], cwd=folder, timeout=120, check=False, **options)


@needs_full
@pytest.mark.parametrize(
    "command",
    [
        LIST,
        ("effdet-convert", "--help"),
        ("effdet-inspect", "model.pth", "--json"),
        ("effdet-convert", "model.pth", "--dry-run"),
        ("effdet-detect", "model.pth", "images"),
        ("effdet-verify", "model.pth", "--coco", "coco", "--workers", "0"),
    ],
    ids=" ".join,
)
def test_a_full_disk(folder: Path, command: tuple[str, ...]) -> None:
    with FULL.open("w") as full:
        done = run(folder, *command, stdout=full)
    *_, last = done.stderr.splitlines()
    assert last.startswith("Error: ")
    assert "No space left on device" in last
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    name, *arguments = command
    assert run_here(name, *arguments, cwd=folder).returncode == 0  # negative control


@needs_full
def test_errors_on_a_full_disk(folder: Path) -> None:
    with FULL.open("w") as full:
        assert run(folder, "effdet-inspect", "absent", stderr=full).returncode == 1


def on_terminal(folder: Path, size: tuple[int, int], name: str, *arguments: str) -> list[str]:
    """Return the lines that a command prints on a terminal of (lines, columns)."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", *size, 0, 0))
    with subprocess.Popen([script(name), *arguments], cwd=folder, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        text = b""
        with suppress(OSError):  # the end of a terminal
            while part := os.read(ours, 4096):
                text += part
    os.close(ours)
    assert process.returncode == 0
    return text.decode().replace("\r\n", "\n").splitlines()


@pytest.mark.parametrize(
    "command",
    [
        ("effdet-convert", "model.pth", "--dry-run"),
        ("effdet-inspect", "model.pth"),
        ("effdet-detect", "model.pth", "images"),
        LIST,
    ],
    ids=" ".join,
)
def test_a_terminal_wraps_words_and_a_pipe_does_not(folder: Path, command: tuple[str, ...]) -> None:
    name, *arguments = command
    done = run_here(name, *arguments, cwd=folder)
    piped = (done.stderr + done.stdout).splitlines()
    assert max(map(len, piped)) > 40
    shown = on_terminal(folder, (24, 40), *command)
    assert max(map(len, shown)) <= 40
    assert "".join(shown).replace(" ", "") == "".join(piped).replace(" ", "")
    assert sum(not line.startswith(" ") for line in shown) == len(piped)  # the others are indented
    assert on_terminal(folder, (24, 5000), *command) == piped  # negative control


def test_on_a_terminal_a_bar_stands_for_the_lines_of_frames(folder: Path) -> None:
    from support.videos import RED, plain, write_video  # late: only this test needs OpenCV

    write_video(folder / "clip.mp4", [plain(RED)] * 5)
    shown = "\n".join(on_terminal(folder, (24, 90), "effdet-detect", "model.pth", "clip.mp4"))
    assert "100%" in shown
    assert "clip.mp4: 5 frames in " in shown
    assert "clip.mp4#" not in shown
    done = run_here("effdet-detect", "model.pth", "clip.mp4", cwd=folder)
    assert "clip.mp4#4: " in done.stdout  # negative control


def test_a_terminal_without_a_size_has_80_columns(folder: Path) -> None:
    shown = on_terminal(folder, (0, 0), "effdet-inspect", "model.pth")
    assert 60 < max(map(len, shown)) <= 80


def test_a_reader_that_has_seen_enough(folder: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    done = run(folder, *LIST, stdout=write)
    os.close(write)
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.parametrize("encoding", ["ascii", "utf-8", pytest.param("latin-1", marks=pytest.mark.slow)])
def test_names_that_the_encoding_lacks(folder: Path, encoding: str) -> None:
    strict = {**os.environ, "PYTHONIOENCODING": f"{encoding}:strict"}
    done = run(folder, "effdet-detect", "model.pth", "images", env=strict, encoding=encoding)
    assert done.returncode == 0, done.stderr
    names = {line.partition(":")[0] for line in done.stdout.splitlines()}
    assert names == {r"images/\xe4.png" if encoding == "ascii" else "images/ä.png", r"images/\udc80.png"}


def test_closed_streams(folder: Path) -> None:
    command = f"{script('effdet-detect')} model.pth images >&- 2>&-"
    assert subprocess.run(["bash", "-c", command], cwd=folder, timeout=120, check=False).returncode == 0


@pytest.mark.parametrize(
    "module", ["click", "converter.command", "verify.command", "torch", "effdet_torch.network.model"]
)
def test_interrupted_while_a_module_is_imported(folder: Path, module: str) -> None:
    program = f"""
import sys
class Interrupt:
    def find_spec(self, name, *_):
        if name == {module!r}:
            raise KeyboardInterrupt
sys.meta_path.insert(0, Interrupt())
import cli
cli.detect(["model.pth", "images"])
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "Error: interrupted\n")


def test_an_import_that_fails_keeps_its_traceback(folder: Path) -> None:
    """Negative control."""
    program = "import sys; sys.modules['verify.command'] = None; import cli"
    done = subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, check=False)
    assert "ModuleNotFoundError" in done.stderr
