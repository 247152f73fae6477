"""How far the work is: as numbers, and as a bar."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click

from effdet_torch.terminal.text import USUAL_WIDTH, on_terminal, width_of
from effdet_torch.terminal.verbosity import is_quiet
from effdet_torch.untrusted.text import columns, printable

Progress = Callable[[int, int], None]  # (done, total): bytes, layers, images
WIDTH = 36  # of a bar, in columns
BESIDE = 34  # columns at most: brackets, percentage, rate and remaining time; a longer line begins anew at every step
BESIDE_TEXT = 12  # columns at most: brackets and percentage


def part_of(progress: Progress | None, number: int, count: int) -> Progress | None:
    """Return the progress of one of several equal parts; parts are numbered from 0."""
    return None if progress is None else lambda done, total: progress(number * total + done, count * total)


@contextmanager
def progress_bar(
    description: str, least: int = 0, rate: bool = False, text: Callable[[], str] | None = None
) -> Iterator[Callable[[int, int], None] | None]:
    """Show (done, total) on stderr if it is a terminal and the total is at least `least`; not if the command is quiet.

    With `rate` the bar also shows how many are done per second; with `text`, what that returns at every step, in the
    place of the remaining time.
    """
    if is_quiet() or not on_terminal(sys.stderr):
        yield None
        return
    bars: list[Any] = []
    start, before = time.monotonic(), 0  # what is done before the start, by an interrupted run, is not of this run
    description, beside = printable(description), BESIDE if text is None else BESIDE_TEXT

    def label(done: int) -> str:
        if text is not None:
            room = (width_of(sys.stderr) or USUAL_WIDTH) - beside - 1
            return printable(f"{description}  {text()}")[:room]
        return f"{description}, {(done - before) / (time.monotonic() - start):.1f}/s" if rate else description

    def show(done: int, total: int) -> None:
        nonlocal before
        if total < least:
            return
        if not bars:
            bars.append(click.progressbar(length=total, file=sys.stderr, show_eta=text is None))
            before = done - 1
        bars[0].label = label(done)
        room = (width_of(sys.stderr) or 0) - columns(description if text is None else bars[0].label) - beside
        bars[0].width = min(WIDTH, max(1, room))
        bars[0].pos = min(done, bars[0].pos)  # a download may start over
        bars[0].update(done - bars[0].pos)

    try:
        yield show
    finally:
        for bar in bars:
            bar.render_finish()
