"""Downloads from a real server that misbehaves on purpose."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import crc32c
import pytest
import requests

from converter.errors import CorruptFileError, MissingFileError, SourceError, UnsupportedSourceError
from converter.fetch import download
from converter.fetch.download import cached_path, fetch, is_url
from effdet_torch.errors import ConfigError
from effdet_torch.outputs.cache import cache_folder

CONTENT = gzip.compress(bytes(300_000), compresslevel=0, mtime=0)  # more than one chunk of the client
SIZE = len(CONTENT)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
CRC32C = base64.b64encode(crc32c.crc32c(CONTENT).to_bytes(4, "big")).decode()
PATH = "/bucket/coco2/efficientdet-d0.tar.gz"


class Handler(BaseHTTPRequestHandler):
    """Does what the next step of the server's script says; sends CONTENT where there is none."""

    server: Server

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        self.server.accepted = self.headers["Accept-Encoding"]
        with suppress(ConnectionError):  # the client left
            (self.server.script.pop(0) if self.server.script else answer())(self)

    def log_message(self, *_: Any) -> None:
        """Keep quiet."""


Step = Callable[[Handler], None]


class Server(ThreadingHTTPServer):
    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.script: list[Step] = []
        self.asked: list[str] = []
        self.accepted: str | None = None
        self.base = f"http://127.0.0.1:{self.server_address[1]}"
        self.url = self.base + PATH


def answer(body: bytes = CONTENT, status: int = 200, pause: float = 0, repeat: int = 1, **headers: Any) -> Step:
    """Send headers and body, then keep the connection for `pause` seconds; a header that is None is left out."""

    def step(handler: Handler) -> None:
        handler.send_response(status)
        for name, value in ({"Content_Length": len(body)} | headers).items():
            if value is not None:
                handler.send_header(name.replace("_", "-"), str(value))
        handler.end_headers()
        for _ in range(repeat):
            handler.wfile.write(body)
        if repeat > 1:
            handler.server.asked.append("and read to its end")
        time.sleep(pause)

    return step


def redirect(target: str) -> Step:
    """Lead somewhere else, with a body of 300 MB that nobody should read."""
    return answer(status=302, repeat=1000, Content_Length=None, Location=target)


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
    """The cache; no proxy between the tests and their server, and no long waiting."""
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setenv("EFFDET_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(download, "PAUSES_SECONDS", (0.0, 0.0))
    return tmp_path / "cache"


def in_cache(folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file()]


# The cache.


def test_a_file_is_downloaded_once(server: Server, folder: Path) -> None:
    seen: list[tuple[int, int]] = []
    path = fetch(server.url, progress=lambda *state: seen.append(state))
    assert seen == [(1 << 18, SIZE), (SIZE, SIZE)]
    assert path.read_bytes() == CONTENT
    assert in_cache(folder) == [server.base[7:].replace(":", "_") + PATH]
    assert path == cached_path(server.url) == folder / in_cache(folder)[0]
    server.script = [answer(b"other")]
    assert fetch(server.url, size_bytes=SIZE, sha256=SHA256) == fetch(server.url) == path
    assert (server.asked, server.accepted) == ([PATH], "identity")
    path.with_name("new").touch()
    assert path.stat().st_mode == path.with_name("new").stat().st_mode  # readable for whoever may read new files


def test_files_of_the_same_name_do_not_collide(server: Server) -> None:
    contents = {PATH: b"1", PATH.replace("coco2", "advprop"): b"2", PATH + "?a=1": b"3", PATH.upper(): b"4"}
    server.script = [answer(content) for content in contents.values()]
    for _ in range(2):
        assert [fetch(server.base + path).read_bytes() for path in contents] == list(contents.values())
    assert fetch(server.base + PATH + "?a=1#part").read_bytes() == b"3"
    assert server.asked == list(contents)
    assert len({str(cached_path(server.base + path)).lower() for path in contents}) == 4  # for any file system


@pytest.mark.parametrize("known", [{}, {"sha256": SHA256}, {"size_bytes": SIZE}])
@pytest.mark.parametrize("content", [CONTENT, CONTENT[:1000]])
def test_a_file_put_there_by_hand_is_used_if_it_is_the_expected_one(
    server: Server, known: dict[str, Any], content: bytes
) -> None:
    path = cached_path(server.url)
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    if content == CONTENT or not known:
        assert fetch(server.url, **known).read_bytes() == content
        assert server.asked == []
        return
    server.script = [answer(status=403)]
    with pytest.raises(SourceError, match="403"):
        fetch(server.url, **known)
    assert path.read_bytes() == content  # it stays until there is a better one
    assert fetch(server.url, **known).read_bytes() == CONTENT


@pytest.mark.parametrize(
    "path",
    ["", "/../../x", "/a/%2e%2e/x", "/a//x", "/a/", "/.hidden", "/" + "a" * 300, "/" + "a/" * 300 + "x", "/a\\..\\x"],
)
def test_no_url_leaves_the_cache(path: str, folder: Path) -> None:
    parts = cached_path(f"http://..{path}.h5").relative_to(folder).parts
    assert len(parts) >= 2
    assert sum(map(len, parts)) < 300
    assert not [part for part in parts if part.startswith(".") or set(part) & set("\\/:%")]


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("EFFDET_CACHE", "~/mine")
    assert cache_folder() == tmp_path / "mine"
    monkeypatch.setenv("EFFDET_CACHE", "")
    assert cache_folder() == tmp_path / "xdg" / "effdet-convert"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # which the standard says to ignore
    assert cache_folder() == tmp_path / ".cache" / "effdet-convert"


# Servers that do not send the file.


@pytest.mark.parametrize(
    ("step", "tries", "kind", "text"),
    [
        (answer(status=404), 1, MissingFileError, r"answered 404 Not Found: there is no such file\. Check the address"),
        (answer(status=403), 1, SourceError, r"answered 403 Forbidden instead of the file\. .*needs a login"),
        (answer(status=206), 1, SourceError, "206 Partial Content"),
        (answer(status=799), 1, SourceError, "answered 799 instead"),
        (answer(b"<!DOCTYPE html><title>Log in"), 1, CorruptFileError, r"sent a web page\. It was not kept\. Check"),
        (answer(b""), 1, CorruptFileError, "sent an empty file"),
        (answer(Content_Length=1 << 40), 1, UnsupportedSourceError, r"more than 1000000 bytes\. If you trust it"),
        (answer(repeat=1000, Content_Length=None), 1, UnsupportedSourceError, "more than 1000000 bytes"),
        (redirect("file:///etc/passwd"), 1, SourceError, "redirects to 'file:///etc/passwd'; expected http or https"),
        (redirect("ftp://host/x?secret"), 1, SourceError, "redirects to 'ftp://host/x'; "),
        (redirect("http://[::1/x"), 1, SourceError, r"request failed: Invalid IPv6 URL\. Check the address and the"),
        (answer(status=503), 3, SourceError, r"answered 503 Service Unavailable\. Try again later\."),
        (answer(b"cut", Content_Length=99), 3, SourceError, r"broke: IncompleteRead\(3 bytes read, 96 more expected\)"),
        (answer(b"cut", Content_Length=99, pause=0.8), 3, SourceError, "connection broke: timed out. Try again later"),
        (lambda _: time.sleep(0.8), 3, SourceError, "connection broke: timed out"),
        (answer(b"zz\r\n", Content_Length=None, Transfer_Encoding="chunked"), 3, SourceError, "connection broke"),
    ],
)
def test_a_wrong_answer_is_refused_and_a_broken_one_tried_again(
    server: Server, folder: Path, monkeypatch: pytest.MonkeyPatch, step: Step, tries: int, kind: type, text: str
) -> None:
    monkeypatch.setattr(download, "MAX_EXTRACTED_BYTES", 1_000_000)
    monkeypatch.setattr(download, "TIMEOUT_SECONDS", 0.4 if "timed out" in text else 30.0)
    server.script = [step] * tries
    with pytest.raises(kind, match=f"^{server.url}: .*{text}") as raised:
        fetch(server.url)
    assert (raised.type, server.asked, in_cache(folder)) == (kind, [PATH] * tries, [])
    server.script = [step] * (tries - 1)
    assert fetch(server.url).read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("address", "text"),
    [("http://127.0.0.1:1", "Connection refused"), ("https://127.0.0.1:{port}", r"\[SSL")],
)
def test_without_a_connection_the_error_comes_at_once(
    server: Server, monkeypatch: pytest.MonkeyPatch, address: str, text: str
) -> None:
    monkeypatch.setattr(download, "PAUSES_SECONDS", (1000.0,))
    url = address.format(port=server.server_port) + PATH + "?secret"
    with pytest.raises(SourceError, match=f"no connection: {text}.*name that file or put it at") as raised:
        fetch(url)
    assert str(cached_path(url)) in str(raised.value)
    assert "secret" not in str(raised.value)


def test_redirects_are_followed_and_queries_are_kept_secret(server: Server, folder: Path) -> None:
    server.script = [redirect("/there?token=secret"), answer(status=403)]
    with pytest.raises(SourceError, match="403") as raised:
        fetch(server.url + "?signature=secret")
    server.script = [redirect("/elsewhere"), redirect(server.base + "/there?token=secret")]
    assert fetch(server.url + "?signature=secret").read_bytes() == CONTENT
    assert server.asked[2:] == [PATH + "?signature=secret", "/elsewhere", "/there?token=secret"]
    texts = [str(raised.value), *in_cache(folder), download._cause(ValueError("cannot parse http://h/x?secret"))]
    assert "secret" not in "".join(texts)
    server.script = [redirect(PATH)] * 99
    with pytest.raises(SourceError, match=r"the request failed: Exceeded 30 redirects\. Check"):
        fetch(server.url)


def test_a_redirect_never_gives_up_encryption() -> None:
    response = requests.Response()
    response.status_code, response.raw = 302, io.BytesIO()
    for before, after in (("http", "https"), ("https", "https"), ("https", "http")):
        response.url, response.headers["Location"] = f"{before}://a/x", f"{after}://b/y"
        if (before, after) != ("https", "http"):
            download._check_redirect(response)
    with pytest.raises(SourceError, match="redirects to 'http://b/y'; expected https"):
        download._check_redirect(response)


# What is checked.


@pytest.mark.parametrize(
    ("known", "headers", "wrong"),
    [
        ({"sha256": SHA256, "size_bytes": SIZE}, {}, None),
        ({"sha256": SHA256[::-1]}, {}, f"has the SHA-256 {SHA256}; expected {SHA256[::-1]}. It was not kept"),
        ({"size_bytes": SIZE - 1}, {}, f"has {SIZE} bytes; expected {SIZE - 1}. It was not kept"),
        ({"size_bytes": SIZE - 1}, {"Content_Length": None}, f"has {SIZE} bytes; expected {SIZE - 1}"),
        ({}, {"x-goog-hash": f"crc32c={CRC32C},md5=x"}, None),
        ({}, {"x-goog-hash": "md5=x, crc32c=AAAAAA=="}, f"CRC-32C {CRC32C}; the server announced AAAAAA==. Try again"),
        ({}, {"x-goog-hash": "nonsense"}, None),
        ({}, {"x-goog-hash": "crc32c=AAAAAA==", "x-goog-stored-content-encoding": "gzip"}, None),
        ({"sha256": SHA256}, {"Content-Encoding": "gzip"}, None),  # `requests` by itself would unpack it
    ],
)
def test_checksums(
    server: Server, folder: Path, known: dict[str, Any], headers: dict[str, Any], wrong: str | None
) -> None:
    server.script = [answer(**headers)]
    if wrong is None:
        assert fetch(server.url, **known).read_bytes() == CONTENT
        return
    with pytest.raises(CorruptFileError, match=f"^{server.url}: the file .*{re.escape(wrong)}"):
        fetch(server.url, **known)
    assert in_cache(folder) == []


# Addresses.


def test_urls_are_recognised() -> None:
    assert all(map(is_url, ["https://host/x", "HTTP://host/x", "gs://bucket/x"]))
    assert not any(map(is_url, ["d0", "C://x", "folder/https:/x", "https:/host/x"]))


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("file:///etc/passwd", "need an http or https address$"),
        ("gs://bucket/a/b.tar.gz", "address, here https://storage.googleapis.com/bucket/a/b.tar.gz"),
        ("http://user:word@host/x", "user or password is not supported"),
        ("http:///x", "not a usable address"),
        ("http://host:port/x", "not a usable address"),
        ("http://[::1/x", "not a usable address"),
    ],
)
def test_addresses_that_cannot_be_fetched(url: str, text: str) -> None:
    with pytest.raises(ConfigError, match=text) as raised:
        fetch(url)
    assert "word" not in str(raised.value).replace("password", "")


def test_unusual_characters_are_encoded(server: Server) -> None:
    assert fetch(server.base + "/a b/ä\r\nX: y.h5").suffix == ".h5"
    assert server.asked == ["/a%20b/%C3%A4%0D%0AX:%20y.h5"]


# The disk, and other processes.


def test_a_cache_that_cannot_be_written_is_named(server: Server, folder: Path) -> None:
    folder.write_text("a file")
    with pytest.raises(SourceError, match=f"^{cached_path(server.url)} cannot be written: .*. Set EFFDET_CACHE"):
        fetch(server.url)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_is_named(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full = os.open("/dev/full", os.O_RDWR)
    monkeypatch.setattr("effdet_torch.outputs.atomic._new_part", lambda *_: (full, tmp_path / "part"))
    with pytest.raises(SourceError, match=r"cannot be written: No space left on device\. Set EFFDET_CACHE"):
        fetch(server.url)


def test_two_downloads_at_once_do_not_disturb_each_other(server: Server, folder: Path) -> None:
    both, results = threading.Barrier(2, timeout=10), list[bytes]()

    def meet(handler: Handler) -> None:
        both.wait()
        answer()(handler)

    server.script = [meet, meet]
    threads = [threading.Thread(target=lambda: results.append(fetch(server.url).read_bytes())) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [CONTENT] * 2
    assert len(in_cache(folder)) == 1


def test_what_a_killed_process_leaves_is_removed_later(server: Server, folder: Path) -> None:
    def kill(handler: Handler) -> None:
        answer(CONTENT[:9], Content_Length=SIZE)(handler)
        deadline = time.monotonic() + 10
        while not in_cache(folder) and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)

    server.script = [kill]
    code = f"from converter.fetch.download import fetch; fetch({server.url!r})"
    process = subprocess.Popen([sys.executable, "-c", code], cwd=Path(__file__).resolve().parents[4])
    assert process.wait(20) == -signal.SIGKILL
    (part,) = in_cache(folder)
    assert part.endswith(".part")
    path = fetch(server.url)
    assert [folder / name for name in in_cache(folder)] == [path]
