"""Fetch a file by its URL into the cache: resumed where it broke off, checked, moved into place only when whole."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from converter.errors import CorruptFileError, SourceError, UnsupportedSourceError
from converter.fetch.cache import CACHE_VARIABLE, CacheEntry, PartNote, cache_entry, file_checksums
from converter.formats.archive import MAX_EXTRACTED_BYTES
from effdet_torch.errors import ConfigError

if TYPE_CHECKING:
    from converter.fetch.http_client import Answer

Progress = Callable[[int, int], None]  # (bytes done, bytes in all)
TIMEOUT_SECONDS = 30.0
PAUSES_SECONDS = (1.0, 2.0, 5.0, 10.0, 20.0)
_PROGRESS_BYTES = 1 << 18
_WRONG_FILE = "It was removed. Try again, and check the address."
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")  # at least two letters: C:// is a drive


def is_url(text: str) -> bool:
    """Whether a text is a URL of any scheme; `fetch` says which it takes."""
    return bool(_SCHEME.match(text))


def fetch(
    url: str,
    *,
    size_bytes: int | None = None,
    sha256: str | None = None,
    progress: Progress | None = None,
    max_bytes: int = MAX_EXTRACTED_BYTES,
    timeout_seconds: float = TIMEOUT_SECONDS,
    pauses_seconds: Sequence[float] = PAUSES_SECONDS,
) -> Path:
    """Return the file behind a URL: from the cache, without any network, or downloaded into it.

    Args:
        url: http or https.
        size_bytes: that the file must have, if it is known.
        sha256: that the file must have, in lower-case hexadecimal digits, if it is known.
        progress: called as bytes arrive, where the server says how many there will be.
        max_bytes: refuse larger files.
        timeout_seconds: longest silence of the server.
        pauses_seconds: before another try; all of them again after every try that made progress.

    Raises:
        ConfigError: It is no http or https URL.
        MissingFileError: The address does not exist.
        CorruptFileError: What arrived is not what the server announced or the caller expects; it was removed.
        UnsupportedSourceError: The file is larger than the limit.
        SourceError: No connection, or it broke too often (what has arrived is kept); or the cache cannot be written.
    """
    _require_http(url)
    entry = cache_entry(url.partition("#")[0])
    try:
        if entry.is_finished(size_bytes, sha256):
            return entry.path
        with entry.locked():
            if not entry.is_finished(size_bytes, sha256):  # another process may just have done it
                _Download(entry, size_bytes, sha256, progress, max_bytes, timeout_seconds, pauses_seconds).run()
    except OSError as error:
        raise SourceError(
            f"{entry.path} cannot be written: {error.strerror or error}. Set {CACHE_VARIABLE} to another folder."
        ) from error
    return entry.path


def shown_url(url: str) -> str:
    """Return a URL fit for messages and reports: without its query, which may hold a secret."""
    return re.split(r"[?#]", url, maxsplit=1)[0]


@dataclass(frozen=True)
class _Download:
    """One download; its fields are the arguments of `fetch`."""

    entry: CacheEntry
    size_bytes: int | None
    sha256: str | None
    progress: Progress | None
    max_bytes: int
    timeout_seconds: float
    pauses_seconds: Sequence[float]

    def run(self) -> None:
        """Leave the finished file, or what can be continued, or nothing; the error says which."""
        try:
            self._transfer()
            self._check_and_finish()
        except SourceError as error:
            if isinstance(error, (CorruptFileError, UnsupportedSourceError)):
                self.entry.discard_part()
            raise type(error)(f"{shown_url(self.entry.url)}: {error}") from error

    def _transfer(self) -> None:
        """Try until everything is there, or until all pauses passed without progress."""
        from converter.fetch.http_client import StalePartError, TransferError, UnreachableError

        furthest, pauses, is_first = self.entry.part_bytes(), list(self.pauses_seconds), True
        while True:
            try:
                return self._try()
            except TransferError as error:
                if isinstance(error, StalePartError):
                    self.entry.discard_part()
                if is_offline := is_first and isinstance(error, UnreachableError):
                    pauses = []  # no use in waiting for a network that was never there
                elif self.entry.part_bytes() > furthest:
                    furthest, pauses = self.entry.part_bytes(), list(self.pauses_seconds)
                if not pauses:
                    raise SourceError(f"{error}. {self._next_step(is_offline)}") from error
            time.sleep(pauses.pop(0))
            is_first = False

    def _try(self) -> None:
        """Make one request for what is missing.

        Raises:
            TransferError: Something is still missing.
        """
        from converter.fetch.http_client import StalePartError, TransferError, request_file

        note, start = self.entry.read_part_note(), self.entry.part_bytes()
        if note is not None and start and note.size_bytes == start:
            return  # it was interrupted between the last byte and the checks
        if note is None or not note.validator:
            note, start = PartNote("", None, {}), 0  # nothing could prove that the rest belongs to it
        with request_file(self.entry.url, start, note.validator, self.timeout_seconds) as answer:
            noted = note.size_bytes if answer.start else None
            if None not in (noted, answer.size_bytes) and noted != answer.size_bytes:
                raise StalePartError(f"the file had {noted} bytes, and now has {answer.size_bytes}")
            total = next((size for size in (answer.size_bytes, noted, self.size_bytes) if size is not None), None)
            self._refuse_size(total)
            done = self._receive(answer, total)
        if total is not None and done < total:
            raise TransferError(f"the connection ended after {done} of {total} bytes")

    def _receive(self, answer: Answer, total: int | None) -> int:
        """Write an answer to the part, and return how large that is now."""
        done = shown = answer.start
        with self.entry.part.open("ab" if answer.start else "wb") as file:
            if not answer.start:
                self.entry.write_part_note(PartNote(answer.validator, total, answer.checksums))
            self._show(done, total)
            for chunk in answer.chunks:
                done += len(chunk)
                if total is not None and done > total:
                    raise CorruptFileError(f"the server announced {total} bytes and sends more. Try again later.")
                self._refuse_size(None, least=done)
                file.write(chunk)
                if done - shown >= _PROGRESS_BYTES or done == total:
                    self._show(done, total)
                    shown = done
        return done

    def _refuse_size(self, total: int | None, least: int = 0) -> None:
        if None not in (total, self.size_bytes) and total != self.size_bytes:
            raise CorruptFileError(f"the file has {total} bytes; expected {self.size_bytes}. {_WRONG_FILE}")
        if max(total or 0, least) > self.max_bytes:
            raise UnsupportedSourceError(
                f"the file has more than {self.max_bytes} bytes. If you trust it, download it and name the file."
            )

    def _check_and_finish(self) -> None:
        from converter.formats.file_kind import EMPTY, WEB_PAGE, recognize_content

        if (content := recognize_content(self.entry.part)) in (EMPTY, WEB_PAGE):  # once cached, it would stay
            raise CorruptFileError(f"what arrived is {content.name}. {_WRONG_FILE}")
        note = self.entry.read_part_note()
        expected = dict(note.checksums) if note else {}
        if self.sha256 is not None:
            expected["sha256"] = self.sha256
        self._refuse_size(self.entry.part_bytes())
        found = file_checksums(self.entry.part, {"sha256", *expected})
        for kind, value in expected.items():
            if found[kind] != value:
                raise CorruptFileError(f"what arrived has the {kind} {found[kind]}; expected {value}. {_WRONG_FILE}")
        self.entry.finish(found["sha256"])

    def _show(self, done: int, total: int | None) -> None:
        if self.progress is not None and total is not None:
            self.progress(done, total)

    def _next_step(self, is_offline: bool) -> str:
        if is_offline:
            return (
                "Check the connection; or download the file elsewhere, and name that file or put it at "
                f"{self.entry.path}."
            )
        note, kept = self.entry.read_part_note(), self.entry.part_bytes()
        if kept and note is not None and note.validator:
            return f"{kept} bytes are kept: the same command goes on from there."
        return "Try the same command again later."


def _require_http(url: str) -> None:
    """Refuse what is no usable http or https URL."""
    try:
        parts = urlsplit(url)
        is_usable = bool(re.fullmatch(r"[!-~]+", url) and parts.hostname and parts.port != 0)
    except ValueError:  # a port or an IPv6 address that is none
        raise ConfigError(f"{shown_url(url)!r} is not a usable address") from None
    if parts.scheme == "gs":
        raise ConfigError(f"{shown_url(url)}: write it as https://storage.googleapis.com/{parts.netloc}{parts.path}")
    if parts.scheme not in ("http", "https"):
        raise ConfigError(f"{shown_url(url)}: downloads need an http or https address")
    if "@" in parts.netloc:
        raise ConfigError("an address with a user or password is not supported: download the file and name it")
    if not is_usable:
        raise ConfigError(f"{shown_url(url)!r} is not a usable address; write anything unusual percent-encoded")
