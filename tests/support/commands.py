"""The installed commands, run as a user runs them: their own process, another folder."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def script(name: str) -> str:
    """Return the path of an installed command."""
    path = Path(sys.executable).parent / name
    assert path.is_file(), f"{name} is not installed beside {sys.executable}: pip install -e ."
    return str(path)


def run(name: str, *arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a command and return its exit code, stdout and stderr."""
    words = [script(name), *map(str, arguments)]
    return subprocess.run(words, cwd=cwd, capture_output=True, text=True, timeout=120, check=False)
