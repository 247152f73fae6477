#!/usr/bin/env bash
# pooch stores a downloaded checkpoint.tar.gz unpacked, and calls it corrupted, if the server labels it as gzip-encoded.
#
# Expected: pooch.retrieve(url, known_hash) stores the bytes of the file, and the SHA-256 of checkpoint.tar.gz matches.
# Seen (pooch 1.9.0 with requests 2.34.2; a .tar.gz of 100 kB served with "Content-Encoding: gzip",
#   which is valid HTTP):
#   without a known hash   the file on disk is the .tar inside, under the name checkpoint.tar.gz
#   with the file's hash   ValueError: the hash of the downloaded file does not match
#   same, sent as "application/gzip" without the label: the file's own bytes, the hash matches
# Reason: requests decodes the body by its Content-Encoding, and pooch writes what requests yields.
# Why it matters: with a hash, an intact published checkpoint is refused as corrupted; without one, the cache holds a file
#   that is not what its name says.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
venv=${FINDINGS_VENV:-$work/venv}
"${PYTHON:-python3}" -m venv "$venv"
"$venv/bin/pip" install --quiet --disable-pip-version-check pooch==1.9.0 requests==2.34.2
"$venv/bin/python" - "$work/cache" <<'PROGRAM'
import gzip
import hashlib
import http.server
import io
import random
import sys
import tarfile
import threading
from pathlib import Path

import pooch
import requests

failed = False
cache = Path(sys.argv[1])
pooch.get_logger().setLevel("CRITICAL")


def check(statement, holds):
    global failed
    failed |= not holds
    print("   ", "as stated:" if holds else "CHANGED:  ", statement)


def archive():
    """Return a .tar.gz with one file of random bytes, and the .tar in it."""
    content, buffer = random.Random(0).randbytes(100_000), io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        info = tarfile.TarInfo("model.data")
        info.size = len(content)
        tar.addfile(info, io.BytesIO(content))
    return gzip.compress(buffer.getvalue(), mtime=0), buffer.getvalue()


packed, unpacked = archive()


class Server(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Type", "application/gzip")
        self.send_header("Content-Length", str(len(packed)))
        if self.path.startswith("/labelled/"):
            self.send_header("Content-Encoding", "gzip")
        self.end_headers()
        self.wfile.write(packed)

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
threading.Thread(target=server.serve_forever, daemon=True).start()
session = requests.Session()
digest = hashlib.sha256(packed).hexdigest()


def retrieve(folder, name, known_hash):
    url = f"http://127.0.0.1:{server.server_port}/{folder}/checkpoint.tar.gz"
    return Path(pooch.retrieve(url, known_hash=known_hash, fname="checkpoint.tar.gz", path=cache / name)).read_bytes()


print(f"pooch {pooch.__version__}, requests {requests.__version__}")
stored = retrieve("labelled", "a", None)
print(f"  labelled, no hash: {len(packed)} bytes on the server, {len(stored)} on disk")
check("the file on disk is the .tar, under the name of the .tar.gz", stored == unpacked)
try:
    retrieve("labelled", "b", f"sha256:{digest}")
    refused = ""
except ValueError as error:
    refused = str(error).splitlines()[0]
print(f"  labelled, hash of the file: {refused[:100] or 'accepted'}")
check("the hash of the file on the server does not match", "does not match" in refused)
check("without the label the file's own bytes are stored", retrieve("plain", "c", f"sha256:{digest}") == packed)
server.shutdown()
sys.exit(failed)
PROGRAM
