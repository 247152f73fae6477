"""Write a file completely or not at all.

The bytes go into a temporary file, which is moved into place at the end. As long as its process runs, it is locked: so
what a killed run left can be told from the file of a run that still writes, and is removed by the next run.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from effdet_torch.errors import OutputError
from effdet_torch.outputs import descriptor, is_stream

_PART = re.compile(r"\.(.+)\.[a-z0-9_]{8}\.part", re.DOTALL)  # as `mkstemp` names it below


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """Open a temporary file, and put it in the place of `path` if the block succeeds.

    A symbolic link stays, and the file that it points to is replaced. A device, a pipe or a descriptor
    (`/dev/stdout`, `/dev/fd/3`) stays as well: the finished bytes are written to it.

    On failure the temporary file is removed and an existing `path` is left unchanged.

    Raises:
        OutputError: The folder does not exist or cannot be written, or the disk is full.
    """
    outcome = "nothing was changed"
    try:
        if is_stream(path):
            outcome = "choose another output"
            with _copied_at_the_end(path) as stream:
                yield stream
        else:
            with _moved_at_the_end(path) as stream:
                yield stream
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror}; {outcome}") from error


def size_of(stream: IO[bytes]) -> int:
    """Return how many bytes a file has, all of them written to the disk's cache."""
    stream.flush()
    return stream.seek(0, os.SEEK_END)


def final_name(name: str) -> str:
    """Return the name that a temporary file of `replacing` would have had in the end; other names are unchanged."""
    return _PART.sub(r"\1", name) if _PART.fullmatch(name) else name


@contextmanager
def _copied_at_the_end(path: Path) -> Iterator[IO[bytes]]:
    with tempfile.TemporaryFile() as stream:  # writers seek, which a pipe cannot
        yield stream
        stream.seek(0)
        number = descriptor(path)  # a duplicate writes where the descriptor is; the file opened again, from its begin
        with path.open("wb") if number is None else os.fdopen(os.dup(number), "wb") as target:
            shutil.copyfileobj(stream, target)


@contextmanager
def _moved_at_the_end(path: Path) -> Iterator[IO[bytes]]:
    place = Path(os.path.realpath(path))
    try:
        handle, temporary = _new_part(place)
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror}; choose another folder") from error
    locked = os.dup(handle)  # until the file is in its place
    try:
        with os.fdopen(handle, "w+b") as stream:
            yield stream
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(place)
    finally:
        temporary.unlink(missing_ok=True)
        os.close(locked)


def _new_part(path: Path) -> tuple[int, Path]:
    """Create and lock a temporary file beside a path, after removing those of killed runs."""
    _remove_leftovers(path)
    handle, part = _locked_part(path)
    if not os.fstat(handle).st_nlink:  # another process took it for a leftover before it was locked
        os.close(handle)
        handle, part = _locked_part(path)
    return handle, part


def _locked_part(path: Path) -> tuple[int, Path]:
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    _lock(handle, wait=True)
    return handle, Path(name)


def _remove_leftovers(path: Path) -> None:
    names = list[str]()
    with suppress(OSError):  # a folder that cannot be listed may still be written
        names = [part.name for part in path.parent.iterdir()]
    for name in names:
        if name != path.name == final_name(name):
            with suppress(OSError), path.with_name(name).open("r+b") as part:  # another user's, or gone meanwhile
                if _lock(part.fileno(), wait=False):
                    path.with_name(name).unlink()


def _lock(handle: int, wait: bool) -> bool:
    """Lock an open file until it is closed, and return whether that worked; not every file system can."""
    try:
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except (ImportError, OSError):
        return False
    return True


def _umask() -> int:
    """Return the process's file mode mask: a temporary file ignores it, the finished file must not."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
