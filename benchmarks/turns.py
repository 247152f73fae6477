"""Contestants take turns, so that a busy machine slows all of them alike; and how their times are printed."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from os import getloadavg

PAUSE_SECONDS = 0.05  # the threads of the last contestant stop spinning
Seconds = dict[str, list[float]]  # contestant -> of every round
Line = tuple[str, float, float, str]  # contestant, milliseconds, times as fast as the first, remark


def in_turns(
    contestants: Mapping[str, Callable[[], object]],
    rounds: int,
    clock: Callable[[], float] = time.perf_counter,
    warm_up: int = 0,
    pause: float = 0.0,
) -> Seconds:
    """Return the seconds of every round; in each round, every contestant runs once.

    Args:
        contestants: what runs; what it returns is freed after its time is taken.
        rounds: how many.
        clock: what is read before and after; torch's own waits for a GPU.
        warm_up: rounds before those that count: they choose kernels.
        pause: seconds before every run.
    """
    seconds: Seconds = {name: [] for name in contestants}
    for number in range(-warm_up, rounds):
        for name, run in contestants.items():
            time.sleep(pause)
            start = clock()
            value = run()
            taken = clock() - start
            del value
            if number >= 0:
                seconds[name].append(taken)
    return seconds


def race(contestants: Mapping[str, Callable[[], object]], rounds: int) -> list[tuple[str, float, float]]:
    """Return (name, median milliseconds, median of the ratios to the first) after `rounds` turns."""
    seconds = in_turns(contestants, rounds, warm_up=1, pause=PAUSE_SECONDS)
    first = next(iter(seconds.values()))
    return [(name, 1e3 * statistics.median(values), times_as_fast(first, values)) for name, values in seconds.items()]


def times_as_fast(first: Iterable[float], values: Iterable[float]) -> float:
    """Return the median of the ratios of the rounds."""
    return statistics.median(one / other for one, other in zip(first, values, strict=True))


def print_race(title: str, lines: Iterable[Line]) -> None:
    """Print the lines of one race."""
    before = getloadavg()[0]
    for name, ms, ratio, remark in lines:
        print(f"{title:28} {name:16} {ms:9.1f} ms {ratio:6.2f} x  {remark}", flush=True)
    print(f"{'':28} load {before:.1f} before, {getloadavg()[0]:.1f} after", flush=True)


def print_times(seconds: Seconds) -> None:
    """Print the minimum and the median of every contestant."""
    for name, values in seconds.items():
        print(f"{name:44s} {min(values) * 1e3:9.2f} ms, median {statistics.median(values) * 1e3:9.2f} ms")
