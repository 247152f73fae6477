"""The file `checkpoint` of a folder, which names the newest checkpoint in it.

Source: TensorFlow's `checkpoint_state.proto`.
"""

from __future__ import annotations

import re
from pathlib import Path

_STATE_BYTES = 1 << 20
_STATE_LINE = re.compile(rb"""^\s*model_checkpoint_path\s*:\s*(["'])((?:\\.|(?!\1)[^\\\n])+)\1""", re.MULTILINE)
_ESCAPE = re.compile(rb"\\([0-7]{1,3}|x[0-9a-fA-F]{1,2}|.)")
_ESCAPED_LETTERS = dict(zip(b"abfnrtv", b"\a\b\f\n\r\t\v", strict=True))


def read_state(state: Path) -> str | None:
    """Return `model_checkpoint_path` of a CheckpointState in protocol-buffer text format; None if it has none."""
    with state.open("rb") as file:
        line = _STATE_LINE.search(file.read(_STATE_BYTES))
    return _ESCAPE.sub(_unescape, line[2]).decode(errors="replace") if line else None


def _unescape(escape: re.Match[bytes]) -> bytes:
    code = escape[1]
    if code[:1].isdigit():
        return bytes([int(code, 8) & 0xFF])
    if code[:1] == b"x" and len(code) > 1:
        return bytes([int(code[1:], 16)])
    return bytes([_ESCAPED_LETTERS.get(code[0], code[0])])
