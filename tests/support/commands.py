"""The commands: as a user runs them, in their own process and another folder; or in this process, which is faster."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import click
from click.testing import CliRunner, Result


def script(name: str) -> str:
    """Return the path of an installed command."""
    path = Path(sys.executable).parent / name
    assert path.is_file(), f"{name} is not installed beside {sys.executable}: pip install -e ."
    return str(path)


def run(name: str, *arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a command and return its exit code, stdout and stderr."""
    words = [script(name), *map(str, arguments)]
    return subprocess.run(words, cwd=cwd, capture_output=True, text=True, timeout=120, check=False)


def run_here(command: click.Command, *arguments: object, cwd: Path) -> Result:
    """Run a command in this process, where everything is loaded: for one of many cases that end early."""
    before = Path.cwd()
    os.chdir(cwd)
    try:
        return CliRunner().invoke(command, list(map(str, arguments)))
    finally:
        os.chdir(before)
