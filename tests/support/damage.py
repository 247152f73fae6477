"""Damage files repeatedly and read them, in a separate process with a limit on memory and time.

Whatever a reader does there (hang, crash, ask for gigabytes), the test continues.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

LIMIT_BYTES = 2 << 30
SECONDS_PER_FILE = 5.0
QUICK, MANY = 300, 10_000
TESTS = Path(__file__).resolve().parents[1]


def damage(whole: bytes, rng: random.Random) -> bytes:
    """Change bytes, copy words to other places, remove the end."""
    data = bytearray(whole)
    for _ in range(rng.choice([0, 1, 1, 2, 4, 16])):
        place = rng.randrange(len(data))
        data[place] = rng.choice([rng.randrange(256), 0, 255, data[place] ^ 1 << rng.randrange(8)])
    for _ in range(rng.choice([0, 0, 1, 3])):  # places that point to each other
        size = rng.choice([1, 4, 8, 16, 40])
        to, origin = (rng.randrange(len(data) - size) // 8 * 8 for _ in range(2))
        data[to : to + size] = data[origin : origin + size]
    return bytes(data[: rng.randrange(len(data))] if rng.random() < 0.1 else data)


def attack(target: Path, count: int, attempt: Callable[[Path], str]) -> dict[str, Any]:
    """Damage a file repeatedly, and count the results of reading it, in the words of `attempt`."""
    whole, results, slowest = target.read_bytes(), Counter[str](), 0.0
    for seed in range(count):
        target.write_bytes(damage(whole, random.Random(seed)))
        start = time.perf_counter()
        try:
            results[attempt(target)] += 1
        except BaseException as error:
            raise AssertionError(f"seed {seed}") from error
        slowest = max(slowest, time.perf_counter() - start)
    return {"results": results, "slowest": slowest}


def run_apart(program: str, *arguments: object, seconds: float) -> dict[str, Any]:
    """Run a test file as a program, see `main`, and return its report."""
    done = subprocess.run(
        [sys.executable, program, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (TESTS, TESTS.parent)))},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def main(work: Callable[..., dict[str, Any]]) -> None:
    """Call `work` with the command line's arguments under the limit, and print its report."""
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (LIMIT_BYTES, LIMIT_BYTES))
    print(json.dumps(work(*sys.argv[1:])))
