"""Text fit to be shown: escaped, as wide as the terminal, and the end of a process whose text nobody takes."""

from __future__ import annotations

import errno
import os
import sys
from contextlib import suppress
from typing import NoReturn, TextIO

import click

from effdet_torch.errors import OutputError
from effdet_torch.untrusted.text import printable, wrapped

USUAL_WIDTH = 80  # of a terminal that does not know its own, in columns


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
            end(1)
        raise OutputError(f"the text cannot be printed: {error.strerror}; redirect it elsewhere") from error


def counted(count: int, noun: str) -> str:
    """Return a count with its noun, in the plural unless the count is 1."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


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


def end(exit_code: int, *lines: str) -> NoReturn:
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
