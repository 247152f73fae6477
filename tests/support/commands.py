"""The commands: as a user runs them, in their own process and another folder; or in this process, which is faster."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from click.testing import CliRunner

import cli


def script(name: str) -> str:
    """Return the path of an installed command."""
    path = Path(sys.executable).parent / name
    assert path.is_file(), f"{name} is not installed beside {sys.executable}: pip install -e ."
    return str(path)


def run(name: str, *arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a command and return its exit code, stdout and stderr."""
    words = [script(name), *map(str, arguments)]
    return subprocess.run(words, cwd=cwd, capture_output=True, text=True, timeout=120, check=False)


def run_here(name: str, *arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a command like `run`, but in this process, where everything is loaded: a second less of CPU time.

    For one of many cases; what a process alone shows, such as its start, Ctrl-C or a file "-", needs `run`. An error
    that a command does not report is raised.
    """
    command, words = getattr(cli, name.removeprefix("effdet-")), list(map(str, arguments))
    before = Path.cwd()
    os.chdir(cwd)
    try:
        done = CliRunner().invoke(command, words, prog_name=name, catch_exceptions=False)
    finally:
        os.chdir(before)
    return subprocess.CompletedProcess([name, *words], done.exit_code, done.stdout, done.stderr)
