"""Checkpoints in .tar.gz archives: the files of a checkpoint, and nothing else, extracted to a temporary folder.

An archive is untrusted: no links, no paths out of the folder, no more bytes than it declares or than the limit.
`tarfile`'s own `filter="data"` is not enough: Python 3.10.11 and 3.11.3 do not have it yet, it allows links inside the
archive, and it limits neither the size of headers nor that of the whole.
"""

from __future__ import annotations

import gzip
import io
import re
import shutil
import tarfile
import tempfile
import zlib
from pathlib import Path, PureWindowsPath
from typing import IO

from converter.errors import CorruptFileError, SourceError, UnsupportedSourceError

# The largest published checkpoint has 0.6 GB; with an optimizer's slots three times that.
MAX_EXTRACTED_BYTES = 4 << 30
_WANTED = re.compile(r"checkpoint|(?!\._).*(\.index|\.data-\d+-of-\d+|\.meta|\.ya?ml)|saved_model\.pb|pipeline\.config")
_MAX_MEMBERS = 10_000
_MAX_HEADER_BYTES = 1 << 20  # headers, long names and padding between two members
_CHUNK_BYTES = 1 << 20
_SKIPPED_NAMES = 3
_PREFIX = "effdet-"  # of temporary folders


class ExtractedArchive:
    """A temporary folder with the checkpoint files of one archive; `close` removes it.

    Attributes:
        path: the archive.
        folder: where its files are until `close`.
        skipped: names of members that are not part of a checkpoint, at most a few.
    """

    def __init__(self, path: Path, max_bytes: int = MAX_EXTRACTED_BYTES) -> None:
        """Extract an archive.

        Args:
            path: a gzip-compressed tar file.
            max_bytes: refuse archives that expand to more.

        Raises:
            SourceError: The archive cannot be opened, or there is no room for its files.
            CorruptFileError: It is cut off, damaged, or not a tar archive.
            UnsupportedSourceError: It expands beyond the limit, or holds links or paths that lead out of its folder.
        """
        self.path = path
        self.skipped: list[str] = []
        self._temporary = tempfile.TemporaryDirectory(prefix=_PREFIX, ignore_cleanup_errors=True)
        self.folder = Path(self._temporary.name)
        try:
            self._extract(max_bytes)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Remove the extracted files."""
        self._temporary.cleanup()

    def describe(self, path: Path) -> str:
        """Return a name for an extracted file that still means something when the folder is gone."""
        return f"{self.path} ({path.relative_to(self.folder)})"

    def _extract(self, max_bytes: int) -> None:
        try:
            with self.path.open("rb") as file, gzip.open(_Unpadded(file)) as stream:
                metered = _MeteredStream(stream)
                # "r|" reads strictly forward; seeking back would decompress everything again.
                with tarfile.open(fileobj=metered, mode="r|") as archive:
                    self._extract_members(archive, metered, max_bytes)
                metered.drain()
        except SourceError as error:
            raise type(error)(f"{self.path}: {error}") from error
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise CorruptFileError(
                f"{self.path}: {error}. The archive is cut off or damaged: download it again."
            ) from error
        except (tarfile.TarError, ValueError) as error:
            raise CorruptFileError(
                f"{self.path}: compressed with gzip, but not a whole tar archive: {error}. Download it again."
            ) from error
        except OSError as error:
            raise SourceError(f"{self.path}: cannot be unpacked: {error.strerror or error}.") from error

    def _extract_members(self, archive: tarfile.TarFile, metered: _MeteredStream, max_bytes: int) -> None:
        for count, member in enumerate(archive):
            name = PureWindowsPath(member.name)  # knows both separators, and drives
            end = member.offset_data + member.size
            if count >= _MAX_MEMBERS or end > max_bytes:
                raise UnsupportedSourceError(
                    f"expands to more than {max_bytes} bytes or {_MAX_MEMBERS} files. If you trust it, unpack it and "
                    "pass the checkpoint inside."
                )
            if name.anchor or ".." in name.parts:
                raise UnsupportedSourceError(f"{member.name!r} leads out of the archive's folder. Do not trust it.")
            metered.limit = end + _MAX_HEADER_BYTES
            if not _WANTED.fullmatch(name.name) or member.isdir():
                self.skipped += [member.name] if len(self.skipped) < _SKIPPED_NAMES and member.isfile() else []
            elif not member.isreg() or member.issparse():
                raise UnsupportedSourceError(f"{member.name!r} is a link or a special file. Do not trust it.")
            else:
                _copy(archive, member, self.folder.joinpath(*name.parts))


def is_temporary(folder: Path) -> bool:
    """Whether a folder is one into which an archive was extracted: what lies beside it is not from the archive."""
    return folder.name.startswith(_PREFIX) and folder.parent == Path(tempfile.gettempdir())


class _Unpadded(io.BufferedIOBase):
    """A compressed file for `gzip`, which would skip zeros behind the data one by one, however many a file claims."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._zeros = file, 0

    def read(self, size: int | None = -1, /) -> bytes:
        """Return the next bytes.

        Raises:
            CorruptFileError: These are more zeros behind the data than any tool writes.
        """
        data = self._file.read(-1 if size is None else size)
        self._zeros = self._zeros + 1 if data == b"\0" else 0
        if self._zeros > _MAX_HEADER_BYTES:
            raise CorruptFileError(f"more than {_MAX_HEADER_BYTES} zeros follow the data. Download it again.")
        return data


class _MeteredStream(io.BufferedIOBase):
    """A stream for `tarfile` that yields no bytes beyond `limit`, so that no header can ask for gigabytes."""

    def __init__(self, stream: gzip.GzipFile) -> None:
        self._stream = stream
        self._position = 0
        self.limit = _MAX_HEADER_BYTES

    def read(self, size: int | None = -1, /) -> bytes:
        """Return the next bytes; none at the end.

        Raises:
            CorruptFileError: They lie beyond the limit.
        """
        data = self._stream.read(size)
        self._position += len(data)
        if self._position > self.limit:
            raise CorruptFileError(f"more than {_MAX_HEADER_BYTES} bytes belong to no file. Download it again.")
        return data

    def drain(self) -> None:
        """Read the padding at the end, which makes gzip compare its checksum."""
        self.limit = self._position + _MAX_HEADER_BYTES
        while self.read(_CHUNK_BYTES):
            pass


def _copy(archive: tarfile.TarFile, member: tarfile.TarInfo, target: Path) -> None:
    """Write one regular member to a new file."""
    source = archive.extractfile(member)
    if source is None or target.exists():
        raise CorruptFileError(f"{member.name!r} is in the archive twice. Unpack it and pass the checkpoint inside.")
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("xb") as file:
        shutil.copyfileobj(source, file, _CHUNK_BYTES)  # an error of tarfile's if there are fewer bytes than declared
