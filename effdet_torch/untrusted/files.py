"""Files from strangers: regular ones only, and none larger than what it is for can be.

Everything that fails is an OSError, which the callers turn into the error of their task.
"""

from __future__ import annotations

import errno
import lzma
import mmap
import os
import stat
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import IO

MAX_TEXT_BYTES = 64 << 20  # names, lists of images, annotations of one image: a list of a million images has 40 MB
MAX_YAML_BYTES = 1 << 20  # training writes 4 kB, and PyYAML reads 100 kB a second
MAX_JSON_BYTES = 4 << 30  # the annotations of COCO's training images have 0.5 GB, those of larger sets some GB
MAX_IMAGE_BYTES = 2 << 30  # as many pixels as Pillow decodes, with 4 channels of 16 bits, have 1.4 GB
MAX_CSV_BYTES = 16 << 30  # the 14 million boxes of Open Images have 2 GB, and are read line by line
MAX_RECORDS_BYTES = 256 << 30  # a file of images; COCO's training images have 19 GB, and are mapped, not read
MAX_MODEL_BYTES = 16 << 30  # D7x in float64 has 0.6 GB, with averages and an optimizer's slots four times that


# What Python's reader of archives raises where bytes of one are damaged; OSError, for offsets, once it is open.
ARCHIVE_ERRORS = (
    zipfile.BadZipFile,
    EOFError,
    OSError,
    OverflowError,
    RuntimeError,
    ValueError,
    lzma.LZMAError,
    zlib.error,
)

# What to do where the system only says what is wrong.
NEXT_STEPS: Mapping[int, str] = {
    errno.ENOENT: "check its name and folder",
    errno.EACCES: "allow this user to read it",
    errno.EISDIR: "name a file",
}


@dataclass(frozen=True, slots=True)
class FilePart:
    """A file inside a larger one, as it is.

    Attributes:
        path: the larger file.
        offset: of the first byte there.
        size: number of bytes.
        name: of the part, for people.
    """

    path: Path
    offset: int
    size: int
    name: str

    def __str__(self) -> str:
        return f"{self.name} in {self.path}"


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


def open_bytes(source: str | Path | FilePart, most: int) -> IO[bytes]:
    """Open a file, or a part of one, of at most `most` bytes; see `require_regular`."""
    if not isinstance(source, FilePart):
        require_regular(source, most)
        return Path(source).open("rb")
    if source.size > most:
        raise OSError(errno.EFBIG, f"it has {source.size} bytes; expected at most {most}", str(source))
    require_regular(source.path, MAX_RECORDS_BYTES)
    with source.path.open("rb") as stream:
        stream.seek(source.offset)
        content = stream.read(source.size)
    if len(content) < source.size:
        raise OSError(errno.EIO, f"{source.path.name} has become shorter; copy it again", str(source))
    return BytesIO(content)


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
