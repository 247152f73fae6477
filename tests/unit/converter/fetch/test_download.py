"""Downloads against a real server that misbehaves on purpose."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import crc32c
import pytest

from converter.errors import CorruptFileError, MissingFileError, SourceError, UnsupportedSourceError
from converter.fetch import cache, download, http_client
from converter.fetch.cache import cache_entry
from converter.fetch.download import fetch, is_url
from converter.identify.official import find_official
from effdet_torch.errors import ConfigError

CONTENT = bytes(range(256)) * 1200  # larger than one buffer of the client
OTHER = bytes(reversed(CONTENT))
CUT = 100_000
SHA256 = hashlib.sha256(CONTENT).hexdigest()
PATH = "/bucket/coco2/efficientdet-d0.tar.gz"
NO_PAUSE = (0.0, 0.0)


def base64_md5(content: bytes) -> str:
    return base64.b64encode(hashlib.md5(content).digest()).decode()


def base64_crc32c(content: bytes) -> str:
    return base64.b64encode(crc32c.crc32c(content).to_bytes(4, "big")).decode()


class Handler(BaseHTTPRequestHandler):
    """Does what the next step of the server's script says; a proper answer where there is none."""

    server: Server

    def do_GET(self) -> None:
        server, headers = self.server, {key.lower(): value for key, value in self.headers.items()}
        server.requests.append((self.path, headers))
        step = server.script.pop(0) if server.script else serve
        self.close_connection = True
        with suppress(ConnectionError):  # the client left
            step(self)

    @property
    def start(self) -> int:
        return int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").removesuffix("-"))

    def head(self, status: int, headers: dict[str, Any]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, str(value))
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Keep quiet."""


class Server(ThreadingHTTPServer):
    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.script: list[Step] = []
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.base = f"http://127.0.0.1:{self.server_address[1]}"
        self.url = self.base + PATH

    def asked(self, header: str) -> list[str | None]:
        return [headers.get(header) for _, headers in self.requests]


Step = Callable[[Handler], None]


def answering(
    content: bytes = CONTENT,
    etag: str = '"1"',
    cut: int | None = None,
    ranges: bool = True,
    if_range: bool = True,
    **headers: Any,
) -> Step:
    """A server with ranges, as far as it is asked to be one; `cut` breaks the connection there."""

    def step(handler: Handler) -> None:
        start = handler.start if ranges else 0
        if if_range and handler.headers.get("If-Range", etag) != etag:
            start = 0
        values: dict[str, Any] = {"Content-Length": len(content) - start} | ({"ETag": etag} if etag else {})
        if start:
            values["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        handler.head(206 if start else 200, values | {key.replace("_", "-"): value for key, value in headers.items()})
        handler.wfile.write(content[start:cut])

    return step


serve = answering()
broken = answering(cut=CUT)


def status(code: int, **headers: Any) -> Step:
    return lambda handler: handler.head(
        code, {"Content-Length": 0} | {k.replace("_", "-"): v for k, v in headers.items()}
    )


def plain(content: bytes, headers: dict[str, Any]) -> Step:
    """Send just this, and close."""

    def step(handler: Handler) -> None:
        handler.head(200, headers)
        handler.wfile.write(content)

    return step


def stall(handler: Handler) -> None:
    handler.head(200, {"Content-Length": len(CONTENT), "ETag": '"1"'})
    handler.wfile.write(CONTENT[:CUT])
    time.sleep(0.5)


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache; no proxy stands between the tests and their server."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "EFFDET_OFFICIAL_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("EFFDET_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def get(url: str, pauses_seconds: Sequence[float] = NO_PAUSE, timeout_seconds: float = 5.0, **options: Any) -> bytes:
    return fetch(url, pauses_seconds=pauses_seconds, timeout_seconds=timeout_seconds, **options).read_bytes()


def left(url: str) -> dict[str, int]:
    """{suffix: bytes} of everything that lies at the place of a URL."""
    path = cache_entry(url).path
    files = path.parent.glob("*") if path.parent.exists() else []
    return {file.name.removeprefix(path.name): file.stat().st_size for file in files if file.suffix != ".json"}


# Whole downloads and the cache.


def test_a_file_is_downloaded_once(server: Server, folder: Path) -> None:
    path = fetch(server.url)
    assert path == folder / server.base[7:].replace(":", "_") / PATH[1:]
    assert path.read_bytes() == CONTENT
    assert left(server.url) == {"": len(CONTENT)}
    assert fetch(server.url, size_bytes=len(CONTENT), sha256=SHA256) == path
    assert len(server.requests) == 1
    server.script = [answering(OTHER)]
    assert get(server.url) == CONTENT


def test_the_cache_needs_no_server() -> None:
    url = f"http://127.0.0.1:1{PATH}"
    entry = cache_entry(url)
    entry.path.parent.mkdir(parents=True)
    entry.path.write_bytes(CONTENT)
    assert get(url) == CONTENT
    entry.path.unlink()
    with pytest.raises(SourceError, match="no connection"):
        get(url)


def test_progress_ends_at_the_whole(server: Server) -> None:
    seen: list[tuple[int, int]] = []
    server.script = [broken]
    get(server.url, progress=lambda done, total: seen.append((done, total)))
    assert seen[0] == (0, len(CONTENT))
    assert (CUT, len(CONTENT)) in seen
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert seen == sorted(seen)


def test_files_of_the_same_name_do_not_collide(server: Server) -> None:
    other = server.base + "/bucket/advprop/efficientdet-d0.tar.gz"
    server.script = [serve, answering(OTHER)]
    assert (get(server.url), get(other)) == (CONTENT, OTHER)
    assert (get(server.url), get(other)) == (CONTENT, OTHER)


@pytest.mark.parametrize("change", [lambda path: os.truncate(path, CUT), lambda path: path.write_bytes(CONTENT + b"x")])
def test_a_file_that_changed_its_size_is_noticed(server: Server, change: Callable[[Path], None]) -> None:
    change(fetch(server.url))
    assert get(server.url) == CONTENT
    assert len(server.requests) == 2


@pytest.mark.parametrize("note", ["", "[]", "{", '{"size_bytes": 307200}'])
def test_a_damaged_note_is_not_trusted(server: Server, note: str) -> None:
    path = fetch(server.url)
    path.with_name(path.name + ".json").write_text(note)
    assert get(server.url) == CONTENT
    assert len(server.requests) == 2
    get(server.url)
    assert len(server.requests) == 2


def test_a_damaged_file_stays_until_there_is_a_better_one(server: Server) -> None:
    path = fetch(server.url)
    os.truncate(path, CUT)
    server.script = [status(403)]
    with pytest.raises(SourceError):
        get(server.url)
    assert path.stat().st_size == CUT


@pytest.mark.parametrize("known", [{}, {"sha256": SHA256}, {"size_bytes": len(CONTENT)}])
@pytest.mark.parametrize("content", [CONTENT, CONTENT[:CUT]])
def test_a_file_put_there_by_hand_is_taken_if_it_is_the_expected_one(
    server: Server, known: dict[str, Any], content: bytes
) -> None:
    path = cache_entry(server.url).path
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    taken = content == CONTENT or not known
    assert get(server.url, **known) == (content if taken else CONTENT)
    assert len(server.requests) == (0 if taken else 1)


def test_a_checksum_that_became_known_later_is_compared(server: Server) -> None:
    server.script = [answering(OTHER)]
    assert get(server.url) == OTHER
    assert get(server.url, sha256=SHA256) == CONTENT


# Broken connections.


def test_a_broken_connection_is_resumed(server: Server) -> None:
    server.script = [broken]
    assert get(server.url, sha256=SHA256) == CONTENT
    assert server.asked("range") == [None, f"bytes={CUT}-"]
    assert server.asked("if-range") == [None, '"1"']


def test_the_next_call_resumes(server: Server) -> None:
    server.script = [broken]
    with pytest.raises(
        SourceError, match=rf"ended after {CUT} of {len(CONTENT)} bytes\. {CUT} bytes are kept: the same"
    ):
        get(server.url, pauses_seconds=())
    assert left(server.url) == {".part": CUT}
    assert get(server.url) == CONTENT
    assert server.asked("range") == [None, f"bytes={CUT}-"]
    assert left(server.url) == {"": len(CONTENT)}
    assert not list(cache_entry(server.url).path.parent.glob("*.part*"))


def test_a_date_serves_where_there_is_no_strong_etag(server: Server) -> None:
    date = "Wed, 01 Jan 2025 00:00:00 GMT"
    server.script = [answering(etag='W/"1"', cut=CUT, Last_Modified=date), answering(etag="", if_range=False)]
    assert get(server.url) == CONTENT
    assert server.asked("if-range") == [None, date]


def test_a_connection_may_break_often_while_there_is_progress(server: Server) -> None:
    server.script = [answering(cut=count * 1000) for count in range(1, 10)]
    assert get(server.url, pauses_seconds=(0.0,)) == CONTENT
    assert len(server.requests) == 10


def test_without_progress_patience_ends(server: Server) -> None:
    server.script = [broken] * 9
    with pytest.raises(SourceError, match="bytes are kept"):
        get(server.url)
    assert len(server.requests) == 1 + len(NO_PAUSE)
    assert left(server.url) == {".part": CUT}


def test_a_file_that_changes_every_time_is_given_up(server: Server) -> None:
    server.script = [answering(etag=f'"{count}"', cut=CUT) for count in range(9)]
    with pytest.raises(SourceError):
        get(server.url)
    assert len(server.requests) == 1 + len(NO_PAUSE)


def test_pauses_are_those_that_were_asked_for(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    server.script = [status(503)] * 3
    assert get(server.url, pauses_seconds=(1, 2, 4)) == CONTENT
    assert pauses == [1, 2, 4]
    assert sorted(download.PAUSES_SECONDS) == list(download.PAUSES_SECONDS)


def test_a_stalled_server_is_asked_again(server: Server) -> None:
    server.script = [stall]
    assert get(server.url, timeout_seconds=0.1) == CONTENT
    assert server.asked("range") == [None, f"bytes={CUT}-"]


def test_a_server_that_never_answers_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(SourceError, match="no answer: timed out"):
        get(f"http://127.0.0.1:{silent.getsockname()[1]}/x", timeout_seconds=0.1)


def test_without_a_network_the_error_comes_at_once() -> None:
    url = f"http://127.0.0.1:1{PATH}"
    with pytest.raises(
        SourceError, match=r"no connection.*download the file elsewhere, and name that file or put it at"
    ):
        get(url, pauses_seconds=(1000.0,))
    assert left(url) == {}


def test_a_network_that_was_there_is_waited_for(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    ask, server.script = http_client._open, [broken]

    def losing(*arguments: Any) -> Any:
        if server.requests:
            raise http_client.UnreachableError("no connection")
        return ask(*arguments)

    monkeypatch.setattr(http_client, "_open", losing)
    with pytest.raises(SourceError, match=f"no connection. {CUT} bytes are kept"):
        get(server.url)
    assert left(server.url) == {".part": CUT}


@pytest.mark.parametrize("size", [len(CONTENT), 1])
def test_what_arrived_whole_only_needs_its_checks(server: Server, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(download, "file_checksums", killed)
        with pytest.raises(KeyboardInterrupt):
            get(server.url)
    assert left(server.url) == {".part": len(CONTENT)}
    if size == len(CONTENT):
        assert get(server.url, size_bytes=size) == CONTENT
    else:
        with pytest.raises(CorruptFileError, match="has 307200 bytes; expected 1"):
            get(server.url, size_bytes=size)
    assert len(server.requests) == 1


def test_a_process_killed_while_it_replaces_a_file_leaves_no_wrong_note(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    server.script = [answering(OTHER)]
    assert get(server.url) == OTHER
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            get(server.url, sha256=SHA256)
    assert get(server.url, sha256=SHA256) == CONTENT
    assert len(server.requests) == 2


# Servers that cannot or must not resume.


@pytest.mark.parametrize(
    "second",
    [
        answering(OTHER, ranges=False),  # it ignores ranges
        answering(OTHER, etag='"2"'),  # the file is another by now
    ],
)
def test_a_whole_answer_starts_over(server: Server, second: Step) -> None:
    server.script = [broken, second]
    assert get(server.url) == OTHER
    assert server.asked("range") == [None, f"bytes={CUT}-"]
    assert left(server.url) == {"": len(OTHER)}


@pytest.mark.parametrize(
    "second",
    [
        answering(OTHER, etag='"2"', if_range=False),  # the rest of another file
        answering(OTHER, Content_Range=f"bytes {CUT - 1}-{len(OTHER) - 1}/{len(OTHER)}"),
        answering(OTHER, Content_Range=f"bytes {CUT}-{len(OTHER)}/{len(OTHER) + 1}"),
        answering(OTHER, Content_Range="nonsense"),
        answering(OTHER, Content_Range=f"bytes {CUT}-1/{'9' * 5000}"),
        status(206),
        status(416),
        status(416, Content_Range=f"bytes */{CUT - 1}"),
    ],
)
def test_an_answer_that_does_not_continue_starts_over(server: Server, second: Step) -> None:
    server.script = [broken, second, answering(OTHER, etag='"2"')]
    assert get(server.url) == OTHER
    assert server.asked("range") == [None, f"bytes={CUT}-", None]


def test_a_part_of_a_file_that_nobody_asked_for_is_no_answer(server: Server) -> None:
    server.script = [status(206, Content_Range="bytes 5-6/7"), status(416, Content_Range="bytes */0")]
    assert get(server.url) == CONTENT
    assert len(server.requests) == 3


@pytest.mark.parametrize("etag", ["", 'W/"1"'])
def test_without_a_validator_nothing_is_resumed(server: Server, etag: str) -> None:
    server.script = [answering(etag=etag, cut=CUT)]
    assert get(server.url) == CONTENT
    assert server.asked("range") == [None, None]


def test_a_damaged_note_of_a_part_starts_over(server: Server) -> None:
    server.script = [broken]
    with pytest.raises(SourceError):
        get(server.url, pauses_seconds=())
    note = cache_entry(server.url).path.with_name("efficientdet-d0.tar.gz.part.json")
    values = json.loads(note.read_text())
    for damaged in ({"validator": 1}, {"size_bytes": "1"}, {"checksums": {"x": ""}}, {"url_sha256": ""}):
        note.write_text(json.dumps(values | damaged))
        assert cache_entry(server.url).read_part_note() is None
    assert get(server.url) == CONTENT
    assert server.asked("range") == [None, None]


def chunked(*chunks: bytes, end: bytes = b"0\r\n\r\n") -> Step:
    def step(handler: Handler) -> None:
        handler.protocol_version = "HTTP/1.1"
        handler.head(200, {"Transfer-Encoding": "chunked", "ETag": '"1"'})
        for chunk in chunks:
            handler.wfile.write(b"%x\r\n%s\r\n" % (len(chunk), chunk))
        handler.wfile.write(end)

    return step


def test_a_server_may_leave_the_size_open(server: Server) -> None:
    seen: list[tuple[int, int]] = []
    server.script = [chunked(CONTENT[:CUT], CONTENT[CUT:])]
    assert get(server.url, progress=lambda *state: seen.append(state)) == CONTENT
    assert seen == []


@pytest.mark.parametrize("end", [b"", b"zz\r\n"])
def test_a_broken_answer_of_open_size_is_resumed(server: Server, end: bytes) -> None:
    server.script = [chunked(CONTENT[:CUT], end=end)]
    assert get(server.url) == CONTENT
    assert server.asked("range") == [None, f"bytes={CUT}-"]


def test_an_answer_of_open_size_that_lacks_only_its_end_is_whole(server: Server) -> None:
    server.script = [chunked(CONTENT, end=b""), status(416, Content_Range=f"bytes */{len(CONTENT)}")]
    assert get(server.url) == CONTENT
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    "second", [status(416, Content_Range="bytes */5"), status(206, Content_Range=f"bytes */{CUT}")]
)
def test_a_part_of_open_size_that_is_no_part_any_more_starts_over(server: Server, second: Step) -> None:
    server.script = [chunked(CONTENT[:CUT], end=b""), second, answering(OTHER)]
    assert get(server.url) == OTHER


# What is checked.


@pytest.mark.parametrize("length", [len(CONTENT) + 1, 10**9])
def test_a_length_that_never_comes_is_an_error(server: Server, length: int) -> None:
    server.script = [plain(CONTENT, {"Content-Length": length})] * 9
    with pytest.raises(SourceError, match=rf"ended after {len(CONTENT)} of {length} bytes\. Try"):
        get(server.url)
    assert "" not in left(server.url)


def test_more_than_was_announced_is_an_error(server: Server) -> None:
    def more(handler: Handler) -> None:
        span = f"bytes {CUT}-{len(CONTENT) - 1}/{len(CONTENT)}"
        handler.head(206, {"Content-Range": span, "ETag": '"1"'})
        handler.wfile.write(CONTENT[CUT:] + b"more")

    server.script = [broken, more]
    with pytest.raises(CorruptFileError, match="sends more"):
        get(server.url)
    assert left(server.url) == {}


@pytest.mark.parametrize("step", [serve, chunked(CONTENT)])
@pytest.mark.parametrize(("size", "good"), [(len(CONTENT), True), (len(CONTENT) - 1, False)])
def test_the_expected_size_is_checked(server: Server, step: Step, size: int, good: bool) -> None:
    server.script = [step]
    if good:
        assert get(server.url, size_bytes=size) == CONTENT
        return
    with pytest.raises(CorruptFileError, match=r"expected 307199|announced 307199"):
        get(server.url, size_bytes=size)
    assert left(server.url) == {}


def test_less_than_the_expected_size_is_a_broken_connection(server: Server) -> None:
    server.script = [plain(CONTENT[:CUT], {"ETag": '"1"'})]
    assert get(server.url, size_bytes=len(CONTENT)) == CONTENT
    assert server.asked("range") == [None, f"bytes={CUT}-"]


@pytest.mark.parametrize(
    ("headers", "options", "wrong"),
    [
        ({}, {"sha256": SHA256}, None),
        ({}, {"sha256": hashlib.sha256(OTHER).hexdigest()}, "sha256"),
        ({"x-goog-hash": f"crc32c={base64_crc32c(CONTENT)},md5={base64_md5(CONTENT)}"}, {}, None),
        ({"x-goog-hash": f"crc32c={base64_crc32c(CONTENT)}, md5={base64_md5(OTHER)}"}, {}, "md5"),
        ({"x-goog-hash": f"crc32c={base64_crc32c(OTHER)},md5={base64_md5(CONTENT)}"}, {}, "crc32c"),
        ({"x-goog-hash": "md5="}, {}, "md5"),
        ({"x-goog-hash": "sha9=abc,nonsense"}, {}, None),
        ({"x-goog-hash": "md5=ofthe.gz", "x-goog-stored-content-encoding": "gzip"}, {}, None),
        ({"x-goog-hash": "md5=wrong", "x-goog-stored-content-encoding": "identity"}, {}, "md5"),
    ],
)
def test_checksums(server: Server, headers: dict[str, Any], options: dict[str, Any], wrong: str | None) -> None:
    server.script = [answering(**headers)]
    if wrong is None:
        assert get(server.url, **options) == CONTENT
        return
    with pytest.raises(CorruptFileError, match=rf"^{server.url}: what arrived has the {wrong} .*expected .*removed"):
        get(server.url, **options)
    assert left(server.url) == {}
    assert get(server.url) == CONTENT


def test_both_lines_of_checksums_count(server: Server) -> None:
    def step(handler: Handler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(CONTENT)))
        handler.send_header("x-goog-hash", f"crc32c={base64_crc32c(CONTENT)}")
        handler.send_header("x-goog-hash", f"md5={base64_md5(OTHER)}")
        handler.end_headers()
        handler.wfile.write(CONTENT)

    server.script = [step]
    with pytest.raises(CorruptFileError, match="md5"):
        get(server.url)


def test_a_checksum_is_remembered_for_the_next_call(server: Server) -> None:
    server.script = [answering(cut=CUT, x_goog_hash=f"md5={base64_md5(OTHER)}")]
    with pytest.raises(SourceError, match="bytes are kept"):
        get(server.url, pauses_seconds=())
    with pytest.raises(CorruptFileError, match="md5"):
        get(server.url)
    assert left(server.url) == {}


@pytest.mark.parametrize("page", [b"<!DOCTYPE html><title>Log in</title>", b"<?xml version='1.0'?><Error/>", b""])
def test_a_web_page_is_never_cached(server: Server, page: bytes) -> None:
    server.script = [answering(page)]
    with pytest.raises(CorruptFileError, match=r"what arrived is (a web page|an empty file)"):
        get(server.url)
    assert left(server.url) == {}


@pytest.mark.parametrize("step", [serve, chunked(CONTENT)])
def test_a_file_beyond_the_limit_is_refused(server: Server, step: Step) -> None:
    server.script = [step]
    with pytest.raises(UnsupportedSourceError, match="more than 307199 bytes"):
        get(server.url, max_bytes=len(CONTENT) - 1)
    assert left(server.url) == {}
    assert get(server.url, max_bytes=len(CONTENT)) == CONTENT


def test_an_endless_answer_is_stopped(server: Server) -> None:
    sent: list[int] = []

    def endless(handler: Handler) -> None:
        handler.head(200, {"ETag": '"1"'})
        while sum(sent) < 1 << 26:
            sent.append(handler.wfile.write(CONTENT))

    server.script = [endless]
    with pytest.raises(UnsupportedSourceError):
        get(server.url, max_bytes=len(CONTENT))
    assert sum(sent) < 1 << 25


# Refusals and redirects.


@pytest.mark.parametrize(
    ("code", "kind", "text"),
    [
        (404, MissingFileError, "does not exist .*404 Not Found"),
        (410, MissingFileError, "does not exist"),
        (403, SourceError, "403 Forbidden: it does not give the file"),
        (204, SourceError, "204"),
        (799, SourceError, "answers 799: it"),
    ],
)
def test_a_refusal_is_final(server: Server, code: int, kind: type[Exception], text: str) -> None:
    server.script = [status(code)]
    with pytest.raises(kind, match=f"^{server.url}: .*{text}"):
        get(server.url)
    assert len(server.requests) == 1
    assert left(server.url) == {}


def test_a_refusal_keeps_what_has_arrived(server: Server) -> None:
    server.script = [broken, status(404)]
    with pytest.raises(MissingFileError):
        get(server.url)
    assert left(server.url) == {".part": CUT}


@pytest.mark.parametrize("code", [408, 429, 500, 502, 503, 504])
def test_a_busy_server_is_asked_again(server: Server, code: int) -> None:
    server.script = [status(code)]
    assert get(server.url) == CONTENT
    server.script = [status(code)] * 9
    with pytest.raises(SourceError, match=rf"answers {code} .*\. Try the same command again later"):
        get(server.base + "/other")


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_redirects_are_followed(server: Server, code: int) -> None:
    server.script = [status(code, Location="/elsewhere"), status(code, Location=server.base + "/there?token=1"), serve]
    assert get(server.url) == CONTENT
    assert [path for path, _ in server.requests] == [PATH, "/elsewhere", "/there?token=1"]
    assert left(server.url) == {"": len(CONTENT)}


def test_a_redirected_download_is_resumed(server: Server) -> None:
    server.script = [broken, status(302, Location="/mirror")]
    assert get(server.url) == CONTENT
    assert server.asked("range") == [None, f"bytes={CUT}-", f"bytes={CUT}-"]


@pytest.mark.parametrize("scheme", ["file", "ftp", "data", "gopher", ""])
def test_other_schemes_are_not_followed(server: Server, tmp_path: Path, scheme: str) -> None:
    (tmp_path / "secret").write_bytes(CONTENT)
    server.script = [status(302, Location=f"{scheme}://{tmp_path}/secret" if scheme else "")]
    with pytest.raises(SourceError, match=f"redirects to '{scheme}.*expected https or http"):
        get(server.url)
    assert left(server.url) == {}


@pytest.mark.parametrize("location", ["http://[::1/x", "http://host:port/x", "//", "http://"])
def test_a_malformed_redirect_is_an_error(server: Server, location: str) -> None:
    server.script = [status(302, Location=location)] * 99
    with pytest.raises(SourceError):
        get(server.url)
    assert left(server.url) == {}


def test_a_redirect_is_percent_encoded(server: Server) -> None:
    server.script = [status(302, Location="/a b/\xe4?x=%20")]
    assert get(server.url) == CONTENT
    assert server.requests[-1][0] == "/a%20b/%E4?x=%20"


def test_circles_end(server: Server) -> None:
    server.script = [status(302, Location=PATH)] * 99
    with pytest.raises(SourceError, match="redirects more than 10 times"):
        get(server.url)
    assert len(server.requests) == 11


def test_a_redirect_never_gives_up_encryption() -> None:
    assert http_client._follow("https://a/x", "https://b/y") == "https://b/y"
    assert http_client._follow("http://a/x", "https://b/y") == "https://b/y"
    with pytest.raises(SourceError, match="expected https"):
        http_client._follow("https://a/x", "http://a/x")


# Addresses.


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://host/x", True),
        ("HTTP://host/x", True),
        ("gs://bucket/x", True),
        ("d0", False),
        ("folder/https:/x", False),
        ("C://x", False),
        ("https:/host/x", False),
    ],
)
def test_urls_are_recognised(text: str, expected: bool) -> None:
    assert is_url(text) is expected


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("ftp://host/x", "need an http or https address"),
        ("file:///etc/passwd", "need an http or https address"),
        ("gs://bucket/a/b.tar.gz", "https://storage.googleapis.com/bucket/a/b.tar.gz"),
        ("http://user:word@host/x", "user or password is not supported"),
        ("http:///x", "not a usable address"),
        ("http://host:port/x", "not a usable address"),
        ("http://[::1/x", "not a usable address"),
        ("http://host/a b", "percent-encoded"),
        ("http://host/ä", "percent-encoded"),
        ("http://host/x\r\nX: y", "percent-encoded"),
    ],
)
def test_addresses_that_cannot_be_fetched(url: str, text: str) -> None:
    with pytest.raises(ConfigError, match=text) as raised:
        fetch(url)
    assert "word" not in str(raised.value).replace("password", "")


def test_a_secret_in_the_query_is_kept_secret(server: Server, folder: Path) -> None:
    server.script = [broken, status(403)]
    with pytest.raises(SourceError) as raised:
        get(server.url + "?signature=secret#part")
    texts = [path.name + path.read_text("latin-1") for path in folder.rglob("*") if path.is_file()]
    assert any("url_sha256" in text for text in texts)
    assert not [text for text in [*texts, str(raised.value)] if "secret" in text]
    assert get(server.url + "?signature=secret") == CONTENT
    assert server.requests[-1][0] == PATH + "?signature=secret"


PLAIN = "http://host/a/b/x.tar.gz"


@pytest.mark.parametrize(
    "url",
    [
        PLAIN + "?a=1",
        PLAIN + "?a=2",
        "http://host/../../x.tar.gz",
        "http://host/a/%2e%2e/x.tar.gz",
        "http://host/a//x.tar.gz",
        "http://host/a/b/",
        "http://host",
        "http://..:80/x",
        "http://host/a/b/x.tar.gz.part",
        "http://host/a/b/x.tar.gz.part.JSON",
        "http://host/.hidden",
        "http://host/" + "a" * 300,
        "http://host/" + "a/" * 300 + "x",
        "http://host/a\\..\\..\\x.tar.gz",
        "http://host/C:/x.tar.gz",
    ],
)
def test_no_url_leaves_the_cache_or_takes_the_place_of_another(url: str, folder: Path) -> None:
    entry = cache_entry(url)
    parts = entry.path.relative_to(folder).parts
    assert len(parts) >= 2
    assert len("/".join(parts)) < 320
    assert not [part for part in parts if part.startswith(".") or len(part) > 110 or set(part) & set('\\/:%?#"')]
    assert entry.path not in [cache_entry(PLAIN).path, cache_entry(PLAIN + "?b").path]
    assert entry.path not in [cache_entry(PLAIN)._beside(suffix) for suffix in (".part", ".json", ".part.json")]


def test_a_fragment_is_no_part_of_an_address(server: Server) -> None:
    assert get(server.url + "#a") == get(server.url) == get(server.url + "#b")
    assert [path for path, _ in server.requests] == [PATH]


def test_a_query_keeps_the_name(folder: Path) -> None:
    assert cache_entry(PLAIN + "?a=1").path.name == "x.tar.gz"
    assert cache_entry(PLAIN).path == folder / "host" / "a" / "b" / "x.tar.gz"


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("EFFDET_CACHE", "~/mine")
    assert cache.cache_folder() == tmp_path / "mine"
    monkeypatch.setenv("EFFDET_CACHE", "")
    assert cache.cache_folder() == tmp_path / "xdg" / "effdet-convert"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # the standard says that this is to be ignored
    assert cache.cache_folder() == tmp_path / ".cache" / "effdet-convert"


def test_another_url_at_the_same_place_is_not_taken_for_it(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    get(server.url)
    monkeypatch.setattr(download, "cache_entry", lambda url: cache.CacheEntry(url, cache_entry(server.url).path))
    server.script = [answering(OTHER)]
    assert get(server.base + "/Bucket") == OTHER


# The disk, and other processes.


def test_a_cache_that_cannot_be_written_is_named(server: Server, folder: Path) -> None:
    folder.write_text("a file")
    with pytest.raises(SourceError, match=r"cannot be written.*Set EFFDET_CACHE"):
        get(server.url)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_full_disk_is_named(server: Server) -> None:
    part = cache_entry(server.url).part
    part.parent.mkdir(parents=True)
    part.symlink_to("/dev/full")
    with pytest.raises(SourceError, match=r"No space left.*Set EFFDET_CACHE"):
        get(server.url)


def slowly(handler: Handler) -> None:
    time.sleep(0.3)
    serve(handler)


def test_two_threads_download_once(server: Server) -> None:
    server.script = [slowly]
    results: list[bytes] = []
    threads = [threading.Thread(target=lambda: results.append(get(server.url))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [CONTENT] * 3
    assert len(server.requests) == 1
    assert left(server.url) == {"": len(CONTENT)}


def test_who_waited_for_a_lock_holds_the_one_that_others_see(server: Server) -> None:
    entry, seen = cache_entry(server.url), threading.Event()
    lock = entry.path.with_name(entry.path.name + ".lock")

    def wait() -> None:
        with entry.locked():
            if lock.exists():
                seen.set()

    with entry.locked():
        thread = threading.Thread(target=wait)
        thread.start()
        time.sleep(0.1)
        assert not seen.is_set()
    thread.join()
    assert seen.is_set()
    assert not lock.exists()


def test_two_processes_download_once(server: Server) -> None:
    server.script = [slowly]
    code = f"from converter.fetch.download import fetch; assert fetch({server.url!r}).stat().st_size == {len(CONTENT)}"
    root = Path(__file__).resolve().parents[4]
    processes = [subprocess.Popen([sys.executable, "-c", code], cwd=root) for _ in range(2)]
    assert [process.wait(20) for process in processes] == [0, 0]
    assert len(server.requests) == 1
    assert left(server.url) == {"": len(CONTENT)}


def test_a_killed_process_leaves_something_to_resume(server: Server) -> None:
    server.script = [stall]
    code = f"from converter.fetch.download import fetch; fetch({server.url!r})"
    process = subprocess.Popen([sys.executable, "-c", code], cwd=Path(__file__).resolve().parents[4])
    deadline = time.monotonic() + 10
    while not server.requests and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.2)
    process.kill()
    process.wait()
    assert ".lock" in left(server.url)
    assert get(server.url) == CONTENT
    assert left(server.url) == {"": len(CONTENT)}


# With the official names.


def test_a_mirror_serves_official_files(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EFFDET_OFFICIAL_URL", server.base + "/mirror/")
    file = find_official("d0-advprop")
    assert file is not None
    assert get(file.url) == CONTENT
    assert server.requests[0][0] == "/mirror/advprop/efficientdet-d0.tar.gz"
