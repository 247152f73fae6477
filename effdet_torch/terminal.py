"""What all commands share: errors as one line, progress on stderr, JSON written completely or not at all."""

from __future__ import annotations

import functools
import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn, ParamSpec

import click
from click.core import ParameterSource

from effdet_torch import __version__
from effdet_torch.errors import EffdetError

P = ParamSpec("P")
Progress = Callable[[int, int], None]  # (done, total): bytes, layers, images
VERSION = click.version_option(__version__, package_name="effdet-convert")


def part_of(progress: Progress | None, number: int, count: int) -> Progress | None:
    """Return the progress of one of several equal parts; parts are numbered from 0."""
    return None if progress is None else lambda done, total: progress(number * total + done, count * total)


def reports_errors(command: Callable[P, None]) -> Callable[P, None]:
    """Turn the project's errors into one message on stderr and an exit code: 1 failed, 2 wrong usage."""

    @functools.wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except EffdetError as error:
            fail(error, kwargs.get("report"))

    return wrapped


def fail(error: EffdetError, report: object) -> NoReturn:
    """Print an error, write it to the report file if there is one, and exit."""
    click.echo(f"Error: {error}", err=True)
    if isinstance(report, Path):
        try:
            write_json(report, {"ok": False, "error": str(error), "problems": getattr(error, "problems", [])})
        except EffdetError as second:
            click.echo(f"Error: {second}", err=True)
    sys.exit(error.exit_code)


def in_a_folder(_: click.Context, __: click.Parameter, path: Path | None) -> Path | None:
    """Refuse an output file in a folder that does not exist, before the work begins."""
    if path is not None and not path.parent.is_dir():
        raise click.BadParameter(f"the folder {path.parent} does not exist; create it first")
    return path


def write_json(path: Path, values: dict[str, Any] | list[dict[str, Any]], indent: int | None = 2) -> None:
    """Write a report file completely or not at all."""
    from effdet_torch.atomic import replacing

    with replacing(path) as stream:
        stream.write((json.dumps(values, indent=indent) + "\n").encode())


def refuse_options(names: Iterable[str], reason: str) -> None:
    """Refuse options that were given but would have no effect."""
    context = click.get_current_context()
    for option in context.command.params:
        if option.name in names and context.get_parameter_source(option.name) is ParameterSource.COMMANDLINE:
            raise click.UsageError(f"{option.opts[0]} {reason}")


@contextmanager
def progress_bar(description: str, least: int = 0, rate: bool = False) -> Iterator[Callable[[int, int], None] | None]:
    """Show (done, total) on stderr if it is a terminal and the total is at least `least`.

    With `rate` the bar also shows how many are done per second.
    """
    if sys.stderr is None or not sys.stderr.isatty():  # None: closed by the caller
        yield None
        return
    bars: list[Any] = []
    first: list[float] = []

    def show(done: int, total: int) -> None:
        if total < least:
            return
        if not bars:
            bars.append(click.progressbar(length=total, label=description, file=sys.stderr))
            first.extend((done, time.monotonic()))
        if rate and done > first[0]:
            bars[0].label = f"{description}, {(done - first[0]) / (time.monotonic() - first[1]):.1f}/s"
        bars[0].pos = min(done, bars[0].pos)  # a download may start over
        bars[0].update(done - bars[0].pos)

    try:
        yield show
    finally:
        for bar in bars:
            bar.render_finish()
