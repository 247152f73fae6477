"""One HTTP request for a file, or for the rest of it; nothing that a server says is trusted.

Only http and https, after redirects too, and never from https to http. Proxies come from the environment.

Source: RFC 9110 sections 8.8 (validators), 13.1.5 (If-Range), 14 (ranges), 15 (status codes).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from email.message import Message
from http.client import HTTPException, HTTPResponse, responses
from string import punctuation
from urllib.error import URLError
from urllib.parse import quote, urljoin, urlsplit
from urllib.request import HTTPHandler, HTTPSHandler, OpenerDirector, ProxyHandler, Request

from converter.errors import MissingFileError, SourceError
from converter.fetch.cache import SERVER_CHECKSUMS
from effdet_torch import __version__

_CHUNK_BYTES = 1 << 18
_MAX_REDIRECTS = 10
_REDIRECTS = (301, 302, 303, 307, 308)
_GONE = (404, 410)
_TRANSIENT = (408, 429, 500, 502, 503, 504)
_RANGE = re.compile(r"bytes (?P<start>\d{1,18})-\d{1,18}/(?:\*|(?P<size>\d{1,18}))|bytes \*/(?P<refused>\d{1,18})")


class TransferError(Exception):
    """A request failed in a way that another try may mend."""


class UnreachableError(TransferError):
    """No connection."""


class StalePartError(TransferError):
    """The server cannot go on from what has arrived; the next try must start over."""


@dataclass(frozen=True)
class Answer:
    """The head of an answer, and its bytes.

    Attributes:
        start: where in the file the first of `chunks` belongs.
        size_bytes: of the whole file; None if the server does not say.
        validator: strong ETag or Last-Modified; "" if it gives none.
        checksums: {"md5" or "crc32c": base64} of the whole file, from Google's storage.
        chunks: the bytes; raises `TransferError` where the connection breaks.
    """

    start: int
    size_bytes: int | None
    validator: str
    checksums: Mapping[str, str]
    chunks: Iterator[bytes]


@contextmanager
def request_file(url: str, start: int, validator: str, timeout_seconds: float) -> Iterator[Answer]:
    """Ask for a file from byte `start` on; the answer may begin at 0 all the same.

    Args:
        url: http or https.
        start: bytes that are there already; 0 asks for the whole file.
        validator: of the file that they belong to; the server sends the whole file if it has become another.
        timeout_seconds: longest silence.

    Raises:
        TransferError: The connection failed or the server is busy.
        StalePartError: Its answer does not continue what is there.
        MissingFileError: The address does not exist.
        SourceError: The server refuses, or sends us where we do not go.
    """
    headers = {"User-Agent": f"effdet-convert/{__version__}", "Accept-Encoding": "identity"}
    if start:
        headers |= {"Range": f"bytes={start}-", "If-Range": validator}
    with _open(url, headers, timeout_seconds) as response:
        yield _read_head(response, start, validator)


def _open(url: str, headers: Mapping[str, str], timeout_seconds: float) -> HTTPResponse:
    """Return the answer behind all redirects, whatever its status."""
    opener = OpenerDirector()
    for handler in (ProxyHandler(), HTTPHandler(), HTTPSHandler()):
        opener.add_handler(handler)
    for _ in range(_MAX_REDIRECTS + 1):
        try:
            response: HTTPResponse = opener.open(Request(url, headers=dict(headers)), timeout=timeout_seconds)  # noqa: S310 - the scheme is checked by the caller and in _follow
        except URLError as error:
            raise UnreachableError(f"no connection: {error.reason}") from error
        except (OSError, HTTPException) as error:
            raise TransferError(f"no answer: {_describe(error)}") from error
        if response.status not in _REDIRECTS:
            return response
        with response:
            url = _follow(url, response.headers.get("Location"))
    raise SourceError(f"the server redirects more than {_MAX_REDIRECTS} times")


def _follow(url: str, location: str | None) -> str:
    """Return the address that a redirect leads to."""
    schemes = ("https",) if urlsplit(url).scheme == "https" else ("https", "http")
    shown = (location or "").partition("?")[0][:200]  # the query may hold a secret
    try:
        target = urljoin(url, location or "")
        is_allowed = bool(location) and urlsplit(target).scheme in schemes
    except ValueError:  # an IPv6 address that is none
        is_allowed = False
    if not is_allowed:
        raise SourceError(f"the server redirects to {shown!r}; expected {' or '.join(schemes)}")
    return quote(target, safe=punctuation, encoding="iso-8859-1")  # headers are bytes; some servers leave them bare


def _read_head(response: HTTPResponse, start: int, validator: str) -> Answer:
    status, headers = response.status, response.headers
    if status == 200:
        return Answer(0, response.length, _validator(headers), _checksums(headers), _chunks(response))
    if status in (206, 416):
        size = _size_if_continued(response, start, validator)
        chunks = _chunks(response) if status == 206 else iter(())  # 416: nothing is missing
        return Answer(start, size, validator, _checksums(headers), chunks)
    text = f"the server answers {status} {responses.get(status, '')}".rstrip()
    if status in _TRANSIENT:
        raise TransferError(text)
    if status in _GONE:
        raise MissingFileError(f"this address does not exist ({text}). Check it.")
    raise SourceError(f"{text}: it does not give the file. Check the address, and whether it needs a login.")


def _size_if_continued(response: HTTPResponse, start: int, validator: str) -> int | None:
    """Return the size of the whole file, after making sure that the answer goes on at `start` in the same file."""
    found = _RANGE.fullmatch(response.headers.get("Content-Range", ""))
    if start and found and response.status == 416 and found["refused"] == str(start):
        return start
    is_same_file = _validator(response.headers) in ("", validator)
    if start and found and response.status == 206 and found["start"] == str(start) and is_same_file:
        return int(found["size"]) if found["size"] else None
    raise StalePartError(f"the server answers {response.status} to bytes {start}-, but does not go on there")


def _validator(headers: Message) -> str:
    """Return what `If-Range` accepts: a strong ETag, else the date."""
    etag = str(headers.get("ETag", ""))
    return etag if etag.startswith('"') else str(headers.get("Last-Modified", ""))


def _checksums(headers: Message) -> dict[str, str]:
    """Return `x-goog-hash`; it is of the stored bytes, which are others where the server decompresses."""
    if headers.get("x-goog-stored-content-encoding", "identity") != "identity":
        return {}
    pairs = (pair.strip().partition("=") for line in headers.get_all("x-goog-hash", []) for pair in line.split(","))
    return {kind: value for kind, _, value in pairs if kind in SERVER_CHECKSUMS}


def _chunks(response: HTTPResponse) -> Iterator[bytes]:
    while True:
        try:
            chunk = response.read1(_CHUNK_BYTES)  # what has arrived, so that a break loses none of it
        except (OSError, HTTPException, ValueError) as error:  # ValueError: of a malformed chunk length
            raise TransferError(f"the connection broke: {_describe(error)}") from error
        if not chunk:
            return
        yield chunk


def _describe(error: Exception) -> str:
    return str(error)[:200] or type(error).__name__
