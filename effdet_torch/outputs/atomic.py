"""Write a file completely or not at all.

The bytes go into a temporary file, which is moved into place at the end. As long as its process runs, it is locked: so
the next run can tell what a killed run left from the file of one that still writes.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from effdet_torch.errors import OutputError
from effdet_torch.outputs.paths import STDOUT, descriptor, is_stream


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
            with _moved_at_the_end(path) as (handle, _), os.fdopen(os.dup(handle), "w+b") as stream:
                yield stream
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror}; {outcome}") from error


def write_json(path: Path, values: dict[str, Any] | list[dict[str, Any]], indent: int | None = 2) -> None:
    """Write a report file completely or not at all; see `replacing` for devices and links."""
    with replacing(path) as stream:
        stream.write((json.dumps(values, indent=indent) + "\n").encode())
    logging.getLogger("effdet").info("wrote %s", "to stdout" if path == STDOUT else path)


@contextmanager
def replacing_by_name(path: Path) -> Iterator[Path]:
    """As `replacing`, for a library that opens the file itself; not for devices and pipes.

    Yields:
        The name of the temporary file, which has the suffix of `path`: libraries choose the format by it.
    """
    with _moved_at_the_end(path, f".part{path.suffix}") as (_, temporary):
        yield temporary


def size_of(stream: IO[bytes]) -> int:
    """Return how many bytes a file has, all of them written to the disk's cache."""
    stream.flush()
    return stream.seek(0, os.SEEK_END)


def is_temporary(name: str, final: str) -> bool:
    """Return whether a file is a temporary one of `replacing`, which would have got the name `final` in the end."""
    return re.fullmatch(rf"\.{re.escape(final)}(\.[a-z0-9_]{{8}})?\.part", name) is not None


@contextmanager
def _copied_at_the_end(path: Path) -> Iterator[IO[bytes]]:
    with tempfile.TemporaryFile() as stream:  # writers seek, which a pipe cannot
        yield stream
        stream.seek(0)
        number = descriptor(path)  # a duplicate writes where the descriptor is; the file opened again, from its begin
        with path.open("wb") if number is None else os.fdopen(os.dup(number), "wb") as target:
            shutil.copyfileobj(stream, target)


@contextmanager
def _moved_at_the_end(path: Path, suffix: str = ".part") -> Iterator[tuple[int, Path]]:
    """Create a temporary file, which is locked until it is in its place; yield its descriptor and its name."""
    place = Path(os.path.realpath(path))
    try:
        if place.is_symlink():  # what it leads to is not a file, but the link itself
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        handle, temporary = _new_part(place, suffix)
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror}; choose another folder") from error
    try:
        yield handle, temporary
        try:
            temporary.chmod(0o666 & ~_umask())
            temporary.replace(place)
        except OSError as error:
            raise OutputError(f"{path} cannot be written: {error.strerror}; nothing was changed") from error
    finally:
        temporary.unlink(missing_ok=True)
        os.close(handle)


def _new_part(path: Path, suffix: str) -> tuple[int, Path]:
    """Create and lock a temporary file beside a path; what a killed run left there is used again, and so disappears."""
    part = path.with_name(f".{path.name}{suffix}")
    with suppress(OSError):  # another user's file, a link, ...: see below
        handle, is_new = _opened(part)
        is_locked = _lock(handle)
        if (is_locked and _is_own(handle, part)) or (is_locked is None and is_new):
            os.ftruncate(handle, 0)
            return handle, part
        os.close(handle)
    # Another run writes the same file, or may do so where locks do not exist.
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=suffix, dir=path.parent)
    return handle, Path(name)


def _opened(path: Path) -> tuple[int, bool]:
    """Open a file for writing, and return whether it is new."""
    flags = os.O_RDWR | getattr(os, "O_NOFOLLOW", 0)
    try:
        return os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o600), True
    except FileExistsError:
        return os.open(path, flags), False


def _lock(handle: int) -> bool | None:
    """Lock an open file until it is closed; False if another process has locked it, None if locks do not exist here."""
    try:
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except (ImportError, OSError):
        return None
    return True


def _is_own(handle: int, path: Path) -> bool:
    """Return whether an open file is this user's, has no other name, and was not moved into its place meanwhile."""
    status = os.fstat(handle)
    return status.st_uid == os.geteuid() and status.st_nlink == 1 and os.path.samestat(status, path.lstat())


def _umask() -> int:
    """Return the process's file mode mask: a temporary file ignores it, the finished file must not."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
