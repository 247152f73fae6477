"""Fetch a file by URL into the cache: checked as it arrives, moved into place only when it is complete.

`requests` does the HTTP. `pooch`, a layer above it, is worse here: it stores `x.tar.gz` unpacked where the server
labels it `Content-Encoding: gzip`, makes cached files unreadable for other users, logs URLs with their query, follows
https to http, and limiting size, checking contents and showing true progress takes more code around it than without it.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from http.client import responses
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any
from urllib.parse import urljoin, urlsplit

from converter.errors import CorruptFileError, MissingFileError, SourceError, UnsupportedSourceError
from converter.formats.archive import MAX_EXTRACTED_BYTES
from effdet_torch import __version__
from effdet_torch.errors import ConfigError, OutputError
from effdet_torch.outputs.cache import CACHE_VARIABLE, cache_folder

if TYPE_CHECKING:
    from requests import Response

    from effdet_torch.terminal.bar import Progress

FindProblem = Callable[[IO[bytes]], str | None]
TIMEOUT_SECONDS = 30.0  # the longest that a server may stay silent
PAUSES_SECONDS = (1.0, 5.0)  # before another try
_CHUNK_BYTES = 1 << 18
_PLAIN = re.compile(r"[a-z0-9]([a-z0-9._-]*[a-z0-9])?")  # no capitals: they collide on some file systems
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")  # at least two letters: C:// is a drive


class _TransientError(SourceError):
    """Another try may succeed."""


def is_url(text: str) -> bool:
    """Tell whether a text is a URL, whatever its scheme; `fetch` accepts only http and https."""
    return bool(_SCHEME.match(text))


def shown_url(url: str) -> str:
    """Return a URL fit for messages and reports: without its query, which may hold a secret."""
    return re.split(r"[?#]", url, maxsplit=1)[0]


def fetch(
    url: str, *, size_bytes: int | None = None, sha256: str | None = None, progress: Progress | None = None
) -> Path:
    """Return the file behind a URL: from the cache without using the network, or downloaded into it.

    Args:
        url: http or https.
        size_bytes: expected size, if known.
        sha256: expected checksum in lower-case hexadecimal digits, if known.
        progress: called as bytes arrive, if the server announces the size.

    Raises:
        ConfigError: The URL is malformed, or neither http nor https.
        MissingFileError: The server has no such file.
        CorruptFileError: The file is not the one expected; it was not kept.
        UnsupportedSourceError: The file is larger than `MAX_EXTRACTED_BYTES`.
        SourceError: The download failed, or the cache cannot be written.
    """
    _require_http(url)
    url = url.partition("#")[0]
    path = cached_path(url)
    find_problem = partial(_find_problem, size_bytes=size_bytes, sha256=sha256)
    try:
        if not _is_cached(path, find_problem):
            path.parent.mkdir(parents=True, exist_ok=True)
            _download_patiently(url, path, find_problem, progress)
    except SourceError as error:
        kind = SourceError if isinstance(error, _TransientError) else type(error)
        raise kind(f"{shown_url(url)}: {error}") from error
    except (OSError, OutputError) as error:
        raise SourceError(
            f"{path} cannot be written: {_cause(error)}. Set {CACHE_VARIABLE} to another folder."
        ) from error
    return path


def cached_path(url: str) -> Path:
    """Return where the file of a URL belongs: HOST/PATH in the cache folder, never outside it.

    A URL with a query or with unusual characters gets a folder named by its digest.
    """
    parts = urlsplit(url)
    *folders, name = parts.path.lstrip("/").split("/")
    host = re.sub(r"[^a-z0-9.-]", "_", parts.netloc.lower()).strip(".") or "_"
    if parts.query or len(parts.path) > 200 or not all(map(_PLAIN.fullmatch, (*folders, name))):
        folders = ["_" + hashlib.sha256(url.encode()).hexdigest()[:16]]
        name = re.sub(r"[^A-Za-z0-9.-]+", "_", name)[-100:].strip("._-") or "download"
    return cache_folder().joinpath(host, *folders, name)


def _require_http(url: str) -> None:
    shown = shown_url(url)
    scheme, _, rest = shown.partition("://")
    if scheme.lower() not in ("http", "https"):
        hint = f", here https://storage.googleapis.com/{rest}" if scheme == "gs" else ""
        raise ConfigError(f"{shown}: downloads need an http or https address{hint}")
    if "@" in rest.partition("/")[0]:
        raise ConfigError("an address with a user or password is not supported: download the file and name it")
    try:
        host = urlsplit(url).hostname or ""
        is_usable = bool(url.encode() and host.encode("idna")) and urlsplit(url).port != 0
    except ValueError:  # an invalid port or IPv6 address, a name that is too long, half a surrogate pair
        is_usable = False
    if not is_usable:
        raise ConfigError(f"{shown!r} is not a usable address; expected https://HOST/PATH")


def _is_cached(path: Path, find_problem: FindProblem) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return find_problem(file) is None


def _download_patiently(url: str, path: Path, find_problem: FindProblem, progress: Progress | None) -> None:
    for pause in PAUSES_SECONDS:
        with suppress(_TransientError):
            return _download(url, path, find_problem, progress)
        time.sleep(pause)
    return _download(url, path, find_problem, progress)


def _download(url: str, path: Path, find_problem: FindProblem, progress: Progress | None) -> None:
    """Try once; a failure of the disk is an `OutputError`, any other a `SourceError`."""
    import requests
    import urllib3

    from effdet_torch.outputs.atomic import replacing

    headers = {"User-Agent": f"effdet-convert/{__version__}", "Accept-Encoding": "identity"}
    hooks = {"response": _check_redirect}
    try:
        answer = requests.get(url, headers=headers, hooks=hooks, stream=True, timeout=TIMEOUT_SECONDS)
        with answer, replacing(path) as file:
            _check_status(answer.status_code)
            _receive(answer, file, progress)
            if problem := find_problem(file):
                raise CorruptFileError(f"{problem}. It was not kept. Check the address, and try again.")
    except requests.ConnectionError as error:
        raise SourceError(
            f"no connection: {_cause(error)}. Check the network; or download the file elsewhere, and name that file "
            f"or put it at {path}."
        ) from error
    except (requests.Timeout, urllib3.exceptions.HTTPError) as error:
        raise _TransientError(f"the connection broke: {_cause(error)}. Try again later.") from error
    except (OSError, ValueError) as error:  # redirects in a circle, an unusable proxy or file of certificates
        raise SourceError(f"the request failed: {_cause(error)}. Check the address and the proxy settings.") from error


def _check_redirect(answer: Response, **_: Any) -> None:
    """Refuse to leave https, and drop the body of a redirect, which `requests` would read into memory."""
    if answer.is_redirect:
        answer.close()
        allowed = ("https",) if urlsplit(answer.url).scheme == "https" else ("http", "https")
        target = urljoin(answer.url, answer.headers["Location"])
        if urlsplit(target).scheme not in allowed:
            raise SourceError(f"the server redirects to {shown_url(target)[:200]!r}; expected {' or '.join(allowed)}")


def _check_status(status: int) -> None:
    text = f"the server answered {status} {responses.get(status, '')}".rstrip()
    if status in (404, 410):
        raise MissingFileError(f"{text}: there is no such file. Check the address.")
    if status in (408, 429, 500, 502, 503, 504):
        raise _TransientError(f"{text}. Try again later.")
    if status != 200:
        raise SourceError(f"{text} instead of the file. Check the address, and whether it needs a login.")


def _receive(answer: Response, file: IO[bytes], progress: Progress | None) -> None:
    """Write the body as the server sends it: not decoded, limited, and equal to what Google's storage announces."""
    from converter.formats.leveldb_table import extend_crc32c

    total, done, crc = answer.raw.length_remaining, 0, 0
    for chunk in answer.raw.stream(_CHUNK_BYTES, decode_content=False):
        done += len(chunk)
        if max(total or 0, done) > MAX_EXTRACTED_BYTES:
            limit = f"the file has more than {MAX_EXTRACTED_BYTES} bytes"
            raise UnsupportedSourceError(f"{limit}. If you trust it, download it and name the file.")
        file.write(chunk)
        crc = extend_crc32c(crc, chunk)
        if progress is not None and total is not None:
            progress(done, total)
    given = re.search(r"\bcrc32c=([^,\s]+)", answer.headers.get("x-goog-hash", ""))
    is_as_stored = answer.headers.get("x-goog-stored-content-encoding", "identity") == "identity"
    found = base64.b64encode(crc.to_bytes(4, "big")).decode()
    if given and is_as_stored and given[1] != found:
        raise CorruptFileError(f"the file has the CRC-32C {found}; the server announced {given[1]}. Try again.")


def _find_problem(file: IO[bytes], size_bytes: int | None, sha256: str | None) -> str | None:
    """Return why a file is not the one expected; None if it is."""
    from converter.formats.file_kind import is_web_page

    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    head = file.read(_CHUNK_BYTES)
    if is_web_page(head) or not head:
        return f"the server sent {'a web page' if head else 'an empty file'}"
    if size_bytes not in (None, size):
        return f"the file has {size} bytes; expected {size_bytes}"
    digest = hashlib.sha256(head)
    while sha256 is not None and (chunk := file.read(_CHUNK_BYTES)):
        digest.update(chunk)
    if sha256 not in (None, digest.hexdigest()):
        return f"the file has the SHA-256 {digest.hexdigest()}; expected {sha256}"
    return None


def _cause(error: BaseException) -> str:
    """Return the innermost reason: the texts that `requests` and `urllib3` wrap it in repeat the URL and its query."""
    for inner in (error.__cause__, getattr(error, "reason", None), *error.args):
        if isinstance(inner, Exception):
            return _cause(inner)
    return str(getattr(error, "strerror", None) or shown_url(str(error)).rstrip(".")[:200] or type(error).__name__)
