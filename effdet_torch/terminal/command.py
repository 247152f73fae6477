"""How every command is called and ends: usage, errors as one message, exit codes."""

from __future__ import annotations

import functools
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NoReturn, ParamSpec

import click
from click.core import ParameterSource

from effdet_torch import __version__
from effdet_torch.errors import EffdetError, OverwriteError
from effdet_torch.terminal.text import end, write
from effdet_torch.terminal.verbosity import verbosity

P = ParamSpec("P")
FORESEEN = (EffdetError, OSError, KeyboardInterrupt, click.Abort)  # what ends a command without a traceback
VERSION = click.version_option(__version__, package_name="effdet-convert")


class Command(click.Command):
    """A command that never ends with a traceback for what a user, a file or the system did."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.context_settings["help_option_names"] = ["-h", "--help"]

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse; a path that is given twice is refused, because click would take the last one without a word."""
        *_, given = self.make_parser(ctx).parse_args(args=list(args))
        for option, count in Counter(given).items():
            takes_one = isinstance(option, click.Option) and not option.multiple
            if count > 1 and takes_one and isinstance(option.type, click.Path):
                raise click.UsageError(f"{option.opts[0]} was given {count} times; it takes one value", ctx)
        return super().parse_args(ctx, args)

    def main(self, *args: Any, **options: Any) -> Any:
        """Run the command and exit; with `standalone_mode=False`, as click does it."""
        if not options.get("standalone_mode", True):
            return super().main(*args, **options)
        try:
            sys.exit(super().main(*args, **options | {"standalone_mode": False}))
        except click.ClickException as error:
            end(error.exit_code, *_usage(getattr(error, "ctx", None)), f"Error: {error.format_message()}")
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


def standard(command: Callable[P, None]) -> Callable[P, None]:
    """Add what every command has: -v, -q and --version; and report its errors."""
    return verbosity(VERSION(reports_errors(command)))


def fail(reason: BaseException, report: object = None) -> NoReturn:
    """Print what went wrong, write it to the report file if there is one, and exit."""
    error = _explained(reason)
    lines = str(error).splitlines() or [type(error).__name__]
    if isinstance(report, Path):
        from effdet_torch.outputs.atomic import write_json  # late: logging, tempfile

        try:
            write_json(report, {"ok": False, "error": str(error), "problems": getattr(error, "problems", [])})
        except EffdetError as second:
            if str(second) != str(error):  # it may be the report that cannot be written
                lines.append(f"Error: {second}")
    end(error.exit_code, "Error: " + lines[0], *lines[1:])


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


def refuse_options(names: Iterable[str], reason: str) -> None:
    """Refuse options that were given but would have no effect."""
    context = click.get_current_context()
    for option in context.command.params:
        if option.name in names and context.get_parameter_source(option.name) is ParameterSource.COMMANDLINE:
            raise click.UsageError(f"{option.opts[0]} {reason}")
