"""Read an untrusted file in a process of its own, with limits on time and memory.

This is for libraries in C that a damaged file can crash, or send into a loop that nothing in Python can interrupt.
"""

from __future__ import annotations

import faulthandler
import gc
import json
import mmap
import os
import signal
import sys
import tempfile
import threading
import traceback
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from converter.errors import CorruptFileError, SourceError, UnsupportedSourceError

LIMIT_SECONDS = 20
LIMIT_BYTES = 2 << 30
_BYTES_PER_SECOND = 20_000_000  # large compressed files get more time
_TIMED_OUT = -14  # exit status after SIGALRM
_ERRORS = {error.__name__: error for error in (SourceError, CorruptFileError, UnsupportedSourceError, RuntimeError)}

Work = Callable[[Path, BinaryIO], Any]


def read_apart(work: Work, path: Path, may_fork: bool = True) -> tuple[Any, mmap.mmap]:
    """Call a function on a file in another process; return its result and the bytes it wrote.

    The process is a fork where that is safe, which takes milliseconds, and a new interpreter elsewhere.

    Args:
        work: a function of a module. It gets the path and a binary file for large results, and returns a value fit for
            JSON or raises a SourceError.
        path: the file to read.
        may_fork: whether the libraries that `work` uses hold nothing open in this process, which a fork would share.

    Raises:
        SourceError: as `work` raised it.
        CorruptFileError: The process crashed or exceeded its time limit.
    """
    seconds = LIMIT_SECONDS + path.stat().st_size // _BYTES_PER_SECOND
    is_fork_safe = may_fork and sys.platform == "linux" and threading.active_count() == 1
    with _result_file() as out:
        status = (_fork if is_fork_safe else _start)(work, path, out, seconds)
        if status == _TIMED_OUT:
            raise CorruptFileError(f"reading it took longer than {seconds} seconds")
        if status not in (0, 1):
            raise CorruptFileError(f"the library that reads it crashed (exit status {status})")
        if status == 1 or not out.seek(0, os.SEEK_END):
            raise SourceError("the process that reads it could not return its result; check the limits of this process")
        written = mmap.mmap(out.fileno(), 0, access=mmap.ACCESS_READ)
    answer = json.loads(written[written.rfind(b"\n") + 1 :])
    if "error" in answer:
        raise _ERRORS[answer["error"]](answer["text"])
    return answer["result"], written


def serve(work: Work, path: Path, out: BinaryIO) -> NoReturn:
    """Call the function under a memory limit, write its result as the last line, and end the process."""
    status = 1
    try:
        gc.disable()  # a fork would copy all that a collection touches
        faulthandler.disable()  # a crash is reported by the parent
        _limit_resources()
        try:
            answer = {"result": work(path, out)}
        except SourceError as error:
            answer = {"error": type(error).__name__, "text": str(error)}
        except Exception:
            answer = {"error": "RuntimeError", "text": traceback.format_exc()}
        out.write(b"\n" + json.dumps(answer).encode())
        out.flush()
        status = 0
    finally:
        os._exit(status)


def _result_file() -> BinaryIO:
    """Open a file without a name for results, in memory where that is possible."""
    if hasattr(os, "memfd_create"):
        return open(os.memfd_create("result"), "w+b")  # noqa: PTH123, a descriptor
    try:
        return tempfile.TemporaryFile()
    except OSError as error:
        raise SourceError(f"no temporary file can be created ({error}); set TMPDIR to a folder with space") from error


def _fork(work: Work, path: Path, out: BinaryIO, seconds: int) -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the idle threads of other libraries, which the child does not use
        child = os.fork()
    if child == 0:
        try:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(seconds)  # ends the process whatever it is doing
            if out.fileno() != 2:
                with suppress(OSError):
                    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # what the C library prints when it aborts
            serve(work, path, out)
        finally:
            os._exit(1)  # the caller's code runs in the parent only
    try:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    except ChildProcessError:  # the caller ignores SIGCHLD: the child has ended, and its status is unknown
        return 0


def _start(work: Work, path: Path, out: BinaryIO, seconds: int) -> int:
    import subprocess  # late: the other way is the usual one

    code = (
        f"import sys; sys.path = {[str(entry) for entry in sys.path]!r}\n"
        f"from {work.__module__} import {work.__name__} as work; from {__name__} import Path, serve\n"
        "serve(work, Path(sys.argv[1]), sys.stdout.buffer)"
    )
    command, nowhere = [sys.executable, "-c", code, str(path)], subprocess.DEVNULL
    try:
        return subprocess.run(command, stdin=nowhere, stdout=out, stderr=nowhere, timeout=seconds).returncode  # noqa: S603
    except subprocess.TimeoutExpired:
        return _TIMED_OUT


def _limit_resources() -> None:
    """Bound memory, beyond what the process has already, and what is written; only Linux enforces both."""
    if sys.platform == "linux":
        import resource

        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        for kind, wanted in ((resource.RLIMIT_AS, used + LIMIT_BYTES), (resource.RLIMIT_FSIZE, LIMIT_BYTES)):
            _, hard = resource.getrlimit(kind)
            resource.setrlimit(kind, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard))
