"""What whole processes cost; on Linux."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

# A process between this one and the command makes the numbers the command's alone.
BETWEEN = """
import resource, subprocess, sys
done = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)
sys.exit(done.returncode)
"""


class Cost(NamedTuple):
    """Wall time of a process, its user and system time, and its peak resident memory."""

    seconds: float
    cpu_seconds: float
    peak_mb: float


def cost_of(command: Sequence[str]) -> Cost:
    """Run a command, and return its cost.

    Raises:
        CalledProcessError: It failed; `stderr` has its text.
    """
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", BETWEEN, *command], check=True, capture_output=True, text=True)
    seconds = time.perf_counter() - start
    return Cost(seconds, *map(float, done.stdout.split()))


def own_command(name: str) -> str:
    """Return the path of a command of this project."""
    return str(Path(sys.executable).parent / name)


def own_memory(name: str) -> int:
    """Return a memory size of this process in bytes: VmRSS, or VmHWM for its peak.

    Not ru_maxrss, which begins with the size of the process that started this one.
    """
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) * 1024 if found else 0


def print_own_peak() -> None:
    """Print the peak memory of this process in MB, for `print_peaks`."""
    print(own_memory("VmHWM") >> 20)


def print_peaks(title: str, contestants: Iterable[str], *command: str) -> None:
    """Print the peak memory of `python -m COMMAND CONTESTANT` for each, and how many times the first one's that is."""
    peaks: list[int] = []
    for name in contestants:
        words = [sys.executable, "-m", *command, name]
        peaks.append(int(subprocess.run(words, check=True, capture_output=True, text=True).stdout))
        print(f"{title:28} {name:16} {peaks[-1]:6} MB {peaks[-1] / peaks[0]:6.2f}", flush=True)
