"""Where downloads lie on disk: one path per URL, and the notes beside it by which a download can be resumed.

NAME             the finished file; moved here only when it is whole and checked
NAME.json        its size and SHA-256, by which a file that was cut off later is noticed
NAME.part        what has arrived of an unfinished one
NAME.part.json   what the server said of it: validator (ETag or date), size, checksums
NAME.lock        held by the process that downloads
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from converter.errors import SourceError

CACHE_VARIABLE = "EFFDET_CACHE"
SERVER_CHECKSUMS = ("md5", "crc32c")
_FOLDER = "effdet-convert"
_PLAIN = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,98}[A-Za-z0-9])?")
_RESERVED = (".part", ".json", ".lock")
_MAX_PATH = 200
_MAX_NAME = 100
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class PartNote:
    """What the server said when an unfinished download began.

    Attributes:
        validator: ETag or Last-Modified, by which it tells whether the file is still the same; "" if it gave none.
        size_bytes: of the whole file; None if it did not say.
        checksums: {"md5" or "crc32c": base64} of the whole file, as far as it gave them.
    """

    validator: str
    size_bytes: int | None
    checksums: Mapping[str, str]


@dataclass(frozen=True)
class CacheEntry:
    """The place of one URL in the cache."""

    url: str
    path: Path

    @property
    def part(self) -> Path:
        """What has arrived of an unfinished download."""
        return self._beside(".part")

    def part_bytes(self) -> int:
        """Return the size of the unfinished file, 0 if there is none."""
        return self.part.stat().st_size if self.part.is_file() else 0

    def is_finished(self, size_bytes: int | None, sha256: str | None) -> bool:
        """Whether the whole file is there; its bytes are not read again.

        A file without a note was put there by hand and is taken as it is, as long as it is what the caller expects.

        Args:
            size_bytes: that the caller expects; None if it does not know.
            sha256: likewise.
        """
        if not self.path.is_file():
            return False
        size = self.path.stat().st_size
        if not self._beside(".json").exists():
            found = file_checksums(self.path, ["sha256"])["sha256"] if sha256 else None
            return size_bytes in (None, size) and sha256 == found
        note = self._read(".json")
        return note.get("size_bytes") == size and size_bytes in (None, size) and sha256 in (None, note.get("sha256"))

    def read_part_note(self) -> PartNote | None:
        """Return what is known of the unfinished file; None if there is no note, or none that can be used."""
        note = self._read(".part.json")
        validator, size, checksums = note.get("validator"), note.get("size_bytes"), note.get("checksums")
        if not isinstance(validator, str) or not isinstance(size, int | None) or not isinstance(checksums, dict):
            return None
        return PartNote(validator, size, checksums) if set(checksums) <= set(SERVER_CHECKSUMS) else None

    def write_part_note(self, note: PartNote) -> None:
        """Note what the server said; the part must be empty, so that no bytes can stand beside a foreign note."""
        content = {"validator": note.validator, "size_bytes": note.size_bytes, "checksums": dict(note.checksums)}
        self._write(".part.json", content)

    def discard_part(self) -> None:
        """Remove the unfinished file and its note."""
        self.part.unlink(missing_ok=True)
        self._beside(".part.json").unlink(missing_ok=True)

    def finish(self, sha256: str) -> None:
        """Move the unfinished file, which is whole and checked, into place."""
        self.path.unlink(missing_ok=True)  # the note must never speak of another file
        self._write(".json", {"size_bytes": self.part_bytes(), "sha256": sha256})
        self.part.replace(self.path)
        self.discard_part()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from downloading the same file; waits for one that does.

        The lock belongs to the open file and ends with the process, so that a lock file left behind does no harm.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        lock = self._beside(".lock")
        while True:
            with lock.open("ab") as handle:
                _lock(handle)
                if not _is_same_file(handle, lock):  # its last owner has removed it meanwhile
                    continue
                try:
                    yield
                finally:
                    lock.unlink(missing_ok=True)
                return

    def _beside(self, suffix: str) -> Path:
        return self.path.with_name(self.path.name + suffix)

    def _read(self, suffix: str) -> dict[str, Any]:
        """Return a note about this URL; {} where there is none, it is damaged, or of another URL."""
        try:
            note = json.loads(self._beside(suffix).read_bytes())
        except (OSError, ValueError, RecursionError):
            return {}
        return note if isinstance(note, dict) and note.get("url_sha256") == _digest(self.url) else {}

    def _write(self, suffix: str, note: Mapping[str, Any]) -> None:
        # The digest, not the URL: its query may hold a secret.
        self._beside(suffix).write_text(json.dumps({"url_sha256": _digest(self.url), **note}) + "\n", "utf-8")


def cache_entry(url: str) -> CacheEntry:
    """Return the place of a URL: HOST/PATH below the cache folder, nothing outside it whatever the URL says.

    A URL with a query, or with anything unusual in its path, gets a folder named by its digest instead.
    """
    parts = urlsplit(url)
    *folders, name = parts.path.lstrip("/").split("/")
    host = re.sub(r"[^a-z0-9.-]", "_", parts.netloc.lower()).strip(".") or "_"
    if parts.query or len(parts.path) > _MAX_PATH or not all(map(_is_plain, (*folders, name))):
        folders = ["_" + _digest(url)[:16]]
        name = re.sub(r"[^A-Za-z0-9.-]+", "_", name)[-_MAX_NAME:].strip("._-")
    return CacheEntry(url, cache_folder().joinpath(host, *folders, name if _is_plain(name) else "download"))


def cache_folder() -> Path:
    """Return `$EFFDET_CACHE`, else `$XDG_CACHE_HOME/effdet-convert`, else `~/.cache/effdet-convert`.

    Raises:
        SourceError: There is no home folder.
    """
    try:
        if named := os.environ.get(CACHE_VARIABLE):
            return Path(named).expanduser()
        base = Path(os.environ.get("XDG_CACHE_HOME", ""))
        return (base if base.is_absolute() else Path.home() / ".cache") / _FOLDER
    except RuntimeError as error:
        raise SourceError(f"there is no home folder for downloads; set {CACHE_VARIABLE} to a folder") from error


def file_checksums(path: Path, kinds: Iterable[str]) -> dict[str, str]:
    """Return checksums of a file in one pass: "sha256" in hexadecimal digits, "md5" and "crc32c" in base64."""
    import crc32c

    wanted = set(kinds)
    digests = {"sha256": hashlib.sha256(), "md5": hashlib.md5(usedforsecurity=False)}
    cyclic = 0
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            for kind in wanted & set(digests):
                digests[kind].update(chunk)
            cyclic = crc32c.crc32c(chunk, cyclic) if "crc32c" in wanted else 0
    found = {
        "sha256": digests["sha256"].hexdigest(),
        "md5": base64.b64encode(digests["md5"].digest()).decode(),
        "crc32c": base64.b64encode(cyclic.to_bytes(4, "big")).decode(),
    }
    return {kind: found[kind] for kind in wanted}


def _is_plain(segment: str) -> bool:
    return bool(_PLAIN.fullmatch(segment)) and not segment.lower().endswith(_RESERVED)


def _digest(url: str) -> str:
    return hashlib.sha256(url.encode()).hexdigest()


def _lock(handle: IO[bytes]) -> None:
    if sys.platform != "win32":  # there, two processes must not download the same file at once
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX)


def _is_same_file(handle: IO[bytes], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle.fileno()), path.stat())
    except FileNotFoundError:
        return False
