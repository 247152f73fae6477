"""What all commands share: text fit to be shown, errors as one line, outputs checked before the work."""

from __future__ import annotations

import errno
import functools
import json
import os
import sys
from collections.abc import Callable, Iterable
from contextlib import nullcontext, redirect_stdout, suppress
from pathlib import Path
from typing import Any, NoReturn, ParamSpec, TextIO

import click
from click.core import ParameterSource

from effdet_torch import __version__
from effdet_torch.config import is_official
from effdet_torch.errors import EffdetError, OutputError, OverwriteError
from effdet_torch.hugging_face import local_file
from effdet_torch.outputs import STDOUT, RunFiles, descriptor, is_folder, is_stream
from effdet_torch.untrusted.text import printable, wrapped

P = ParamSpec("P")
FilesOf = Callable[[Path], Iterable[Path]]  # the value of a parameter -> the files that it makes a command write
FORESEEN = (EffdetError, OSError, KeyboardInterrupt, click.Abort)  # what ends a command without a traceback
# Suffixes of files that are not JSON; any other one, .txt for example, is left to the user.
OTHER_FORMATS = frozenset({".csv", ".html", ".md", ".tsv", ".xml"})
USUAL_WIDTH = 80  # of a terminal that does not know its own, in columns
VERSION = click.version_option(__version__, package_name="effdet-convert")


def say(*lines: str, err: bool = False, hanging: int = 2) -> None:
    """Print lines of any text; names in them may come from strangers, and neither end a line nor reach a terminal.

    On a terminal, lines that are too long are wrapped; all but the first are indented by `hanging` columns.
    """
    width = width_of(sys.stderr if err else sys.stdout)
    shown = (line for text in lines for line in wrapped(printable(text), width, hanging))
    write("\n".join(shown) + "\n", err)


def write(text: str, err: bool = False) -> None:
    r"""Print text that is fit to be shown; what the encoding of the stream lacks becomes `\u20ac` and the like.

    Raises:
        OutputError: The stream cannot be written.
    """
    stream = sys.stderr if err else sys.stdout
    encoding = getattr(stream, "encoding", None) or "utf-8"  # None: closed by the caller
    try:
        click.echo(text.encode(encoding, "backslashreplace").decode(encoding), nl=False, err=err)
    except OSError as error:
        if error.errno == errno.EPIPE:  # the reader, such as `head`, has seen enough
            _end(1)
        raise OutputError(f"the text cannot be printed: {error.strerror}; redirect it elsewhere") from error


def on_terminal(stream: TextIO | None) -> bool:
    """Whether a stream is a terminal; None is one that the caller closed."""
    return stream is not None and stream.isatty()


def width_of(stream: TextIO | None) -> int | None:
    """Return the width of a terminal in columns; None for anything else, where lines stay whole."""
    if stream is None or not on_terminal(stream):
        return None
    with suppress(OSError, ValueError):  # not one of the system
        return os.get_terminal_size(stream.fileno()).columns or USUAL_WIDTH
    return USUAL_WIDTH


class Command(click.Command):
    """A command that never ends with a traceback for what a user, a file or the system did."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.context_settings["help_option_names"] = ["-h", "--help"]

    def main(self, *args: Any, **options: Any) -> Any:
        """Run the command and exit; with `standalone_mode=False`, as click does it."""
        if not options.get("standalone_mode", True):
            return super().main(*args, **options)
        try:
            sys.exit(super().main(*args, **options | {"standalone_mode": False}))
        except click.ClickException as error:
            _end(error.exit_code, *_usage(getattr(error, "ctx", None)), f"Error: {error.format_message()}")
        except FORESEEN as error:
            fail(error)


@click.pass_context
def _help_without_verb(context: click.Context) -> None:
    if context.invoked_subcommand is None:
        write(context.get_help() + "\n", err=True)
        context.exit(2)


class Group(Command, click.Group):
    """A command whose verbs are commands, listed in the order in which they are given."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(
            *args,
            **options,
            callback=_help_without_verb,
            invoke_without_command=True,
            subcommand_metavar="COMMAND [ARGS]...",
        )

    def list_commands(self, _: click.Context) -> list[str]:
        """Return the verbs."""
        return list(self.commands)


def reports_errors(command: Callable[P, None]) -> Callable[P, None]:
    """Turn what was foreseen into one message on stderr and an exit code: 1 failed, 2 wrong usage."""

    @functools.wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except OverwriteError as error:
            fail(error)
        except FORESEEN as error:
            fail(error, kwargs.get("report"))

    return wrapped


def fail(reason: BaseException, report: object = None) -> NoReturn:
    """Print what went wrong, write it to the report file if there is one, and exit."""
    error = _explained(reason)
    lines = str(error).splitlines() or [type(error).__name__]
    if isinstance(report, Path):
        try:
            write_json(report, {"ok": False, "error": str(error), "problems": getattr(error, "problems", [])})
        except EffdetError as second:
            if str(second) != str(error):  # it may be the report that cannot be written
                lines.append(f"Error: {second}")
    _end(error.exit_code, "Error: " + lines[0], *lines[1:])


def _explained(reason: BaseException) -> EffdetError:
    if isinstance(reason, EffdetError):
        return reason
    if isinstance(reason, OSError):
        what = "a file or stream" if reason.filename is None else reason.filename
        return EffdetError(f"{what} cannot be used: {reason.strerror or reason}; check that it is accessible")
    return EffdetError("interrupted")


def _usage(context: click.Context | None) -> list[str]:
    """Return how a command is used, in the words of click."""
    if context is None:
        return []
    return [*context.get_usage().splitlines(), f"Try '{context.command_path} --help' for help.", ""]


def _end(exit_code: int, *lines: str) -> NoReturn:
    """Print lines on stderr and exit; what a full disk or a closed pipe does not take is dropped."""
    with suppress(OutputError):
        if lines:
            say(*lines, err=True)
    for stream in filter(None, (sys.stdout, sys.stderr)):
        _flush(stream)
    sys.exit(exit_code)


def _flush(stream: TextIO) -> None:
    try:
        stream.flush()
    except OSError:  # Python would try again at its end, and complain
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


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


def write_json(path: Path, values: dict[str, Any] | list[dict[str, Any]], indent: int | None = 2) -> None:
    """Write a report file completely or not at all; see `replacing` for devices and links."""
    import logging  # late, as tempfile and shutil below

    from effdet_torch.atomic import replacing

    with replacing(path) as stream:
        stream.write((json.dumps(values, indent=indent) + "\n").encode())
    logging.getLogger("effdet").info("wrote %s", "to stdout" if path == STDOUT else path)


def refuse_options(names: Iterable[str], reason: str) -> None:
    """Refuse options that were given but would have no effect."""
    context = click.get_current_context()
    for option in context.command.params:
        if option.name in names and context.get_parameter_source(option.name) is ParameterSource.COMMANDLINE:
            raise click.UsageError(f"{option.opts[0]} {reason}")
