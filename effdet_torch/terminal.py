"""What all commands share: errors as one line, outputs checked before the work, progress on stderr."""

from __future__ import annotations

import functools
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout
from pathlib import Path
from typing import Any, NoReturn, ParamSpec

import click
from click.core import ParameterSource

from effdet_torch import __version__
from effdet_torch.errors import EffdetError, OverwriteError
from effdet_torch.outputs import STDOUT, RunFiles, descriptor, is_stream

P = ParamSpec("P")
Progress = Callable[[int, int], None]  # (done, total): bytes, layers, images
FilesOf = Callable[[Path], Iterable[Path]]  # the value of a parameter -> the files that it makes a command write
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
        except OverwriteError as error:
            fail(error, None)
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
            if str(second) != str(error):  # it may be the report that cannot be written
                click.echo(f"Error: {second}", err=True)
    sys.exit(error.exit_code)


def itself(path: Path) -> Iterable[Path]:
    """Return the one file that an option names; for the table of `writes`."""
    return (path,)


def unless_folder(path: Path) -> Iterable[Path]:
    """Return the file that an option names; nothing for a folder, whose file gets its name later."""
    return () if path.is_dir() else (path,)


def writes(**outputs: FilesOf) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Check what a command writes before it runs, and pass it on as `files`.

    If something is written to stdout, the text for people goes to stderr.

    Args:
        outputs: {parameter: its value -> the files that are written}; parameters that hold other paths are inputs.

    Raises:
        OverwriteError: A file would be overwritten.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def wrapped(**values: Any) -> None:
            paths = {name: value for name, value in values.items() if isinstance(value, Path)}
            named = ((name, path) for name, path in paths.items() if name in outputs)
            rows = tuple((_spelled(name), file) for name, path in named for file in outputs[name](path))
            files = RunFiles(rows, tuple(path for name, path in paths.items() if name not in outputs))
            files.require_apart()
            is_taken = any(descriptor(path) == descriptor(STDOUT) for _, path in rows)  # stdout, by any of its names
            with redirect_stdout(sys.stderr) if is_taken else nullcontext():
                command(**values, files=files)

        return wrapped

    return decorate


def _spelled(name: str) -> str:
    """Return a parameter as users write it: --report, OUT."""
    parameter = next(item for item in click.get_current_context().command.params if item.name == name)
    return parameter.opts[0] if isinstance(parameter, click.Option) else parameter.human_readable_name


def output_file(context: click.Context, option: click.Parameter, text: str | None) -> Path | None:
    """Parse the name of an output file, `-` being stdout; refuse a folder, and a folder that does not exist."""
    path = output_file_or_folder(context, option, text)
    if path is not None and path.is_dir():
        raise click.BadParameter(f"{path} is a directory; name a file")
    return path


def named_file(context: click.Context, option: click.Parameter, text: str | None) -> Path | None:
    """Parse the name of an output file as `output_file` does, but refuse a stream."""
    path = output_file(context, option, text)
    if path is not None and is_stream(path):
        raise click.BadParameter(f"{text} is a stream; name a file, because files beside it get their names from it")
    return path


def output_file_or_folder(_: click.Context, __: click.Parameter, text: str | None) -> Path | None:
    """Parse the name of an output as `output_file` does, but allow a folder."""
    if text is None or text == "-":
        return None if text is None else STDOUT
    for folder in (Path(text).parent, Path(os.path.realpath(text)).parent):  # the second one of a symbolic link
        if not folder.is_dir():
            raise click.BadParameter(f"the folder {folder} does not exist; create it first")
    return Path(text)


def write_json(path: Path, values: dict[str, Any] | list[dict[str, Any]], indent: int | None = 2) -> None:
    """Write a report file completely or not at all; see `replacing` for devices and links."""
    from effdet_torch.atomic import replacing  # late: tempfile and shutil

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
