"""`-q` and `-v` of a command: what is printed, and what is not."""

from __future__ import annotations

import io
import logging
import re
import sys

import click
import pytest
from click.testing import CliRunner, Result

from effdet_torch.errors import EffdetError
from effdet_torch.terminal import bar
from effdet_torch.terminal.command import Command
from effdet_torch.terminal.text import say
from effdet_torch.terminal.verbosity import is_quiet, tell, verbosity

HOSTILE = "a\rb\x1b[2J"
SHOWN = r"a\rb\x1b[2J"
STEP = re.compile(r" {3}\d\.\d\d s  done with (.*)")


@click.command(cls=Command)
@click.option("--fail", is_flag=True)
@verbosity
def command(fail: bool) -> None:
    tell("a note", err=True)
    tell("text for people")
    logging.getLogger("effdet").info("done with %s", HOSTILE)
    if fail:
        raise EffdetError("it failed")
    say("data")


def run(*arguments: str) -> Result:
    return CliRunner().invoke(command, arguments)


def test_quiet_leaves_errors_and_data() -> None:
    assert (run().stdout, run().stderr) == ("text for people\ndata\n", "a note\n")
    for flag in ("-q", "--quiet"):
        assert (run(flag).stdout, run(flag).stderr, run(flag).exit_code) == ("data\n", "", 0)
    assert (run("-q", "--fail").stdout, run("-q", "--fail").stderr) == ("", "Error: it failed\n")
    assert run("-q", "--fail").exit_code == run("--fail").exit_code == 1
    assert not is_quiet()


def test_verbose_shows_the_steps_with_seconds_and_escapes_names() -> None:
    for flag in ("-v", "--verbose"):
        done = run(flag)
        assert done.stdout == run().stdout
        note, step = done.stderr.splitlines()
        found = STEP.fullmatch(step)
        assert found is not None
        assert (note, found[1]) == ("a note", SHOWN)


def test_the_steps_end_with_the_command() -> None:
    """Also when it fails: the logger is that of the whole process."""
    logger = logging.getLogger("effdet")
    before = (logger.level, list(logger.handlers))
    assert "done with" in run("-v", "--fail").stderr
    assert (logger.level, list(logger.handlers)) == before
    assert "done with" not in run().stderr


@pytest.mark.parametrize(("flags", "is_shown"), [([], True), (["-v"], True), (["-q"], False)])
def test_quiet_shows_no_bar(flags: list[str], is_shown: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bar, "on_terminal", lambda _: True)
    shown = []

    @click.command(cls=Command)
    @verbosity
    def working() -> None:
        with bar.progress_bar("work") as progress:
            shown.append(progress is not None)

    assert CliRunner().invoke(working, flags).exit_code == 0
    assert shown == [is_shown]


@pytest.mark.parametrize("columns", [40, 80, 300])
def test_a_bar_fits_its_line(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that does not begins a new line at every step."""
    stream = io.StringIO()
    monkeypatch.setattr(stream, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(bar, "width_of", lambda _: columns)
    with bar.progress_bar("work", rate=True) as progress:
        assert progress is not None
        for done in range(1, 11):
            progress(done, 10)
    drawn = [line for line in stream.getvalue().split("\r") if "%" in line]
    assert drawn
    assert max(len(re.sub(r"\x1b\[\S+?[a-zA-Z]", "", line)) for line in drawn) < columns
    assert (f"[{'#' * bar.WIDTH}]" in stream.getvalue()) == (columns > 40)
