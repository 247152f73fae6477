"""Commands and their outputs in the pages of the documentation."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterator
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


def blocks(page: Path) -> Iterator[str]:
    """Yield the text of every block of code: fenced, or indented after an empty line."""
    text = page.read_text(encoding="utf-8")
    fenced = re.compile(r"^```\w*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
    yield from fenced.findall(text)
    for block in re.findall(r"(?<=\n\n)(?: {4}.*\n|\n(?= {4}))+", fenced.sub("", text)):
        yield re.sub(r"^ {4}", "", block, flags=re.MULTILINE)


def typed(page: Path) -> Iterator[list[str]]:
    """Yield the words of every command of ours that a page shows, with or without "$" or another command around it."""
    for block in blocks(page):
        lines = block.replace("\\\n", " ").splitlines()
        if marked := [line.strip()[2:] for line in lines if line.strip().startswith("$ ")]:
            lines = marked
        for line in lines:
            if found := re.search(r"(?:^|&& |--no-python |run: )(effdet(?:-\w+)? (?!\W).*)", line.strip()):
                yield shlex.split(re.split(r" (?:&&|[|>;]) ?", found[1])[0], comments=True)


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
