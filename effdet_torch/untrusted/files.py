"""Files from strangers: regular ones only, and none larger than what it is for can be.

Everything that fails is an OSError, which the callers turn into the error of their task.
"""

from __future__ import annotations

import errno
import mmap
import os
import stat
from collections.abc import Mapping
from pathlib import Path

MAX_TEXT_BYTES = 64 << 20  # names, lists of images, annotations of one image: a list of a million images has 40 MB
MAX_YAML_BYTES = 1 << 20  # training writes 4 kB, and PyYAML reads 100 kB a second
MAX_JSON_BYTES = 4 << 30  # the annotations of COCO's training images have 0.5 GB, those of larger sets some GB
MAX_IMAGE_BYTES = 2 << 30  # as many pixels as Pillow decodes, with 4 channels of 16 bits, have 1.4 GB
MAX_MODEL_BYTES = 16 << 30  # D7x in float64 has 0.6 GB, with averages and an optimizer's slots four times that


# What to do where the system only says what is wrong.
NEXT_STEPS: Mapping[int, str] = {
    errno.ENOENT: "check its name and folder",
    errno.EACCES: "allow this user to read it",
    errno.EISDIR: "name a file",
}


def reason_of(error: OSError) -> str:
    """Return why a file cannot be read and, where it helps, what to do: the end of a sentence, without a full stop."""
    reason, step = error.strerror or str(error), NEXT_STEPS.get(error.errno or 0)
    return reason if step is None else f"{reason}; {step}"


def require_regular(path: str | Path, most: int) -> int:
    """Return the size of a file in bytes.

    Args:
        path: the file; symbolic links are followed.
        most: refuse larger ones. A sparse file can claim more bytes than the disk has.

    Raises:
        OSError: It does not exist, is not accessible or too large; or a pipe or a device, which may have no end.
    """
    try:
        found = Path(path).stat()
    except ValueError as error:
        raise OSError(errno.EINVAL, f"it is not a path: {error}", str(path)) from error
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "it is a pipe or a device; copy its content to a file first", str(path))
    if found.st_size > most:
        raise OSError(errno.EFBIG, f"it has {found.st_size} bytes; expected at most {most}", str(path))
    return found.st_size


def read_bytes(path: Path, most: int) -> bytes:
    """Return the content of a file; see `require_regular`."""
    size = require_regular(path, most)
    with path.open("rb") as stream:
        content = stream.read(size + 1)
    if len(content) > size:
        raise OSError(errno.EFBIG, f"it has more than the {size} bytes that its folder states", str(path))
    return content


def map_file(path: Path, most: int = MAX_MODEL_BYTES) -> memoryview:
    """Return the bytes of a file, which are read from the disk as they are used; see `require_regular`."""
    require_regular(path, most)
    with path.open("rb") as stream:
        is_empty = os.fstat(stream.fileno()).st_size == 0  # mmap refuses empty files
        return memoryview(b"" if is_empty else mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ))


def read_text(path: Path, most: int = MAX_TEXT_BYTES) -> str:
    """Return the content of a text file in UTF-8, with or without a byte order mark; see `require_regular`.

    Raises:
        OSError: See `require_regular`.
        ValueError: It is not UTF-8.
    """
    return read_bytes(path, most).decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
