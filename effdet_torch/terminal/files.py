"""The files that a command's options and arguments name: what each must be, and all of them checked before the work."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Iterable
from contextlib import nullcontext, redirect_stdout
from pathlib import Path
from typing import Any

import click

from effdet_torch.config import is_official
from effdet_torch.hugging_face import local_file
from effdet_torch.outputs.paths import STDOUT, RunFiles, descriptor, is_folder, is_stream

FilesOf = Callable[[Path], Iterable[Path]]  # the value of a parameter -> the files that it makes a command write
# Suffixes of files that are not JSON; any other one, .txt for example, is left to the user.
OTHER_FORMATS = frozenset({".csv", ".html", ".md", ".tsv", ".xml"})


def itself(path: Path) -> Iterable[Path]:
    """Return the one file that an option names; for the table of `writes`."""
    return (path,)


def unless_folder(path: Path) -> Iterable[Path]:
    """Return the file that an option names; nothing for a folder, whose file gets its name later."""
    return () if is_folder(path) else (path,)


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


def model_file(context: click.Context, _: click.Parameter, text: str | None) -> Path | None:
    """Parse the name of a model file to read; one on the Hugging Face Hub is downloaded, see `local_file`.

    An official model, by its name, is downloaded and converted for as long as the command runs, by the function that
    the entry point handed down.
    """
    if text is None or context.obj is None or Path(text).exists() or not is_official(text):
        return None if text is None else local_file(text)
    converted: Path = context.with_resource(context.obj(text))
    return converted


def input_file(_: click.Context, __: click.Parameter, path: Path | None) -> Path | None:
    """Refuse a folder in place of a file to read."""
    return _no_folder(path)


def json_file(context: click.Context, option: click.Parameter, text: str | None) -> Path | None:
    """Parse the name of a JSON file to write, `-` being stdout; refuse a folder, and a folder that does not exist."""
    return _no_folder(json_file_or_folder(context, option, text))


def json_file_or_folder(_: click.Context, __: click.Parameter, text: str | None) -> Path | None:
    """Parse the name of an output as `json_file` does, but allow a folder."""
    path = _output(text)
    if path is not None and path.suffix.lower() in OTHER_FORMATS:
        raise click.BadParameter(f"{path} ends in {path.suffix}, but what is written is JSON; name it {path.stem}.json")
    return path


def named_file(_: click.Context, __: click.Parameter, text: str | None) -> Path | None:
    """Parse the name of a file to write that has others beside it; refuse a folder and a stream."""
    path = _no_folder(_output(text))
    if path is not None and is_stream(path):
        raise click.BadParameter(f"{text} is a stream; name a file, because files beside it get their names from it")
    return path


def csv_file(_: click.Context, __: click.Parameter, text: str | None) -> Path | None:
    """Parse the name of a table to write; refuse what is not called one, because another file may be meant."""
    path = named_file(_, __, text)
    if path is not None and path.suffix.lower() != ".csv":
        raise click.BadParameter(f"{path} does not end in .csv")
    return path


def output_folder(_: click.Context, __: click.Parameter, text: str | None) -> Path | None:
    """Parse the name of a folder to write into, which need not exist; `-` is not one."""
    path = None if text is None else Path(text)
    if path is not None and (text == "-" or (path.exists() and not is_folder(path))):
        raise click.BadParameter(f"{path} is {'stdout' if text == '-' else 'a file'}; name a folder")
    return path


def _no_folder(path: Path | None) -> Path | None:
    if path is not None and is_folder(path):
        raise click.BadParameter(f"{path} is a folder; name a file")
    return path


def _output(text: str | None) -> Path | None:
    if text is None or text == "-":
        return None if text is None else STDOUT
    for folder in (Path(text).parent, Path(os.path.realpath(text)).parent):  # the second one of a symbolic link
        if not is_folder(folder):
            raise click.BadParameter(f"the folder {folder} does not exist; create it first")
    return Path(text)
