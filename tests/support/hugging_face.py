"""A small stand-in for the Hugging Face Hub: repositories in memory, over HTTP."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

COMMIT = "a" * 40
# Part of an address -> status and code of the Hub's error, as the real one sends them.
ERRORS = {
    "/user/gated/": (403, "GatedRepo"),
    "/user/empty/": (404, "EntryNotFound"),
    "/user/missing/": (404, "RepoNotFound"),
    "/resolve/no-such-revision/": (404, "RevisionNotFound"),
    "": (404, "EntryNotFound"),
}


class Hub(BaseHTTPRequestHandler):
    """Takes a commit of small files, and gives them back."""

    files: ClassVar[dict[str, bytes]] = {}
    tokens: ClassVar[set[str | None]] = set()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"] or 0))
        self.tokens.add(self.headers["authorization"])
        if self.path == "/api/repos/create":
            name = json.loads(body)
            self._json({"url": f"/{name['organization']}/{name['name']}"})
        elif "/preupload/" in self.path:
            wanted = [file["path"] for file in json.loads(body)["files"]]
            self._json({"files": [{"path": path, "uploadMode": "regular", "shouldIgnore": False} for path in wanted]})
        elif self.path == "/api/validate-yaml":
            self._json({"errors": [], "warnings": []})
        else:
            rows = [json.loads(line) for line in body.splitlines()]
            found = {row["value"]["path"]: row["value"]["content"] for row in rows if row["key"] == "file"}
            self.files.update({path: base64.b64decode(content) for path, content in found.items()})
            url = f"http://{self.headers['host']}/user/mine/commit/{COMMIT}"
            self._json({"commitUrl": url, "commitOid": COMMIT, "hookOutput": "", "success": True})

    def do_HEAD(self) -> None:
        self.do_GET(with_body=False)

    def do_GET(self, with_body: bool = True) -> None:
        content = self.files.get(self.path.rpartition("/")[2])
        part = next(part for part in ERRORS if part in self.path)
        if "/resolve/" not in self.path or content is None or part:
            status, code = ERRORS[part]
            self.send_response(status)
            self.send_header("x-error-code", code)
            self.send_header("content-length", "0")
            self.end_headers()
            return
        self.send_response(200)
        self.send_header("content-length", str(len(content)))
        self.send_header("etag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("x-repo-commit", COMMIT)
        self.end_headers()
        if with_body:
            self.wfile.write(content)

    def _json(self, value: dict[str, Any]) -> None:
        content = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def local_hub() -> Iterator[str]:
    """Yield the address of an empty hub."""
    Hub.files, Hub.tokens = {}, set()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def environment(folder: Path, endpoint: str) -> dict[str, str]:
    """Return the environment of a process that uses a hub: huggingface_hub reads the address when it is imported."""
    names = {"HF_ENDPOINT": endpoint, "HF_TOKEN": "hf_test", "HF_HOME": str(folder / "home"), "HF_HUB_DISABLE_XET": "1"}
    return os.environ | names


def in_process(code: str, folder: Path, endpoint: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run code in a process of its own."""
    words, env = [sys.executable, "-c", code], environment(folder, endpoint) | variables
    return subprocess.run(words, cwd=folder, env=env, capture_output=True, text=True, check=False)
