"""Commands and their outputs in the pages of the documentation."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

from support.commands import script

MINUTES = 30  # a machine that does other work as well; alone the longest page takes less than half
# Of an output: what another machine may print, and what stands for it.
VARIES = {
    r"\(e\.g\. .*?\)": "(...)",
    r"\d+ detections? \(.*\)|\d+ detections?": "detections",
    r"\b(ema|raw)\b": "copy",
    r"\d+:\d\d(:\d\d)?|\d+ s\b": "time",
    r"\d+(\.\d+)*(e[-+]\d+)?": "0",
    r" +": " ",
}


def sessions(page: Path) -> dict[str, list[str]]:
    """Return {command of a page: the lines that it prints there}; "..." stands for lines that are left out."""
    found = dict[str, list[str]]()
    for block in re.findall(r"(?:^ {4,}\S.*\n)+", page.read_text(encoding="utf-8"), re.MULTILINE):
        lines = list[str]()  # of what is no session, such as Python
        for line in map(str.strip, block.splitlines()):
            if line.startswith("$ "):
                found[line[2:]] = lines = []
            elif line != "...":
                lines.append(line)
    return found


def alike(text: str) -> str:
    for pattern, stand_in in VARIES.items():
        text = re.sub(pattern, stand_in, text)
    return text.strip()


def printed(command: str, folder: Path) -> list[str]:
    """Run a command and return what it prints."""
    name, *words = shlex.split(command)
    done = subprocess.run([script(name), *words], cwd=folder, capture_output=True, text=True, timeout=60 * MINUTES)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return (done.stdout + done.stderr).splitlines()
