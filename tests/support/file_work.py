"""Functions that behave well or badly in the process of their own that `read_apart` gives them."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any, BinaryIO

from converter.errors import UnsupportedSourceError


def echo(path: Path, out: BinaryIO) -> Any:
    out.write(b"values\n")
    os.write(2, b"noise, as of a library in C")
    return {"text": path.read_text(), "pid": os.getpid(), "is_fork": "pytest" in sys.modules}


def refuse(path: Path, out: BinaryIO) -> None:
    raise UnsupportedSourceError("it holds music")


def fail(path: Path, out: BinaryIO) -> None:
    raise ZeroDivisionError("a fault of the program")


def crash(path: Path, out: BinaryIO) -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def hang(path: Path, out: BinaryIO) -> None:
    while True:
        pass


def fill_memory(path: Path, out: BinaryIO) -> int:
    return len(bytearray(3 << 30))
