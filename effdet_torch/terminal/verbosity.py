"""`-q` and `-v`: how much a command says."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec

import click

from effdet_torch.terminal.text import say

P = ParamSpec("P")
CHOSEN = f"{__name__}.chosen"  # in the context: "quiet" or "verbose"


def verbosity(command: Callable[P, None]) -> Callable[P, None]:
    """Add `-q` and `-v` to a command."""
    for flags, text in OPTIONS.items():
        command = click.option(*flags, is_flag=True, expose_value=False, callback=_choose, help=text)(command)
    return command


OPTIONS = {
    ("-v", "--verbose"): "Say on stderr what is done, with the seconds since the start.",
    ("-q", "--quiet"): "Print errors and what was asked for only.",
}


def is_quiet() -> bool:
    """Whether the running command was asked to be quiet."""
    context = click.get_current_context(silent=True)
    return context is not None and context.meta.get(CHOSEN) == "quiet"


def tell(*lines: str, err: bool = False) -> None:
    """Print lines as `say` does, unless the command is to be quiet: what nobody asked for, and is not an error."""
    if not is_quiet():
        say(*lines, err=err)


def _choose(context: click.Context, option: click.Parameter, wanted: bool) -> None:
    if not wanted:
        return
    if context.meta.setdefault(CHOSEN, option.name) != option.name:
        raise click.UsageError("-q and -v contradict each other; give one of them")
    if option.name == "verbose":
        from effdet_torch.terminal.steps import shown_steps  # late: logging

        context.with_resource(shown_steps())
