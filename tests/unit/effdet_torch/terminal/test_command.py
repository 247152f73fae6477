"""How commands print and end: one line for what was foreseen, a traceback for our own mistakes only."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from effdet_torch.errors import EffdetError, UsageError
from effdet_torch.terminal.command import Command, reports_errors
from effdet_torch.terminal.text import say, write

HOSTILE = "a\nError: b\x1b[2J\udc80"
SHOWN = r"a\nError: b\x1b[2J\udc80"


def run(work: Callable[[], None], *arguments: str) -> Result:
    @click.command(cls=Command)
    @click.option("--report", type=click.Path(path_type=Path))
    @reports_errors
    def command(report: Path | None) -> None:
        work()

    return CliRunner().invoke(command, arguments, prog_name="command")


def raising(error: BaseException) -> Callable[[], None]:
    def work() -> None:
        raise error

    return work


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (EffdetError(HOSTILE), 1, f"Error: {SHOWN}"),
        (UsageError("a", "  b"), 2, "Error: a\n  b"),
        (EffdetError(), 1, "Error: EffdetError\n"),
        (PermissionError(13, "Permission denied", HOSTILE), 1, f"Error: {SHOWN} cannot be used: Permission denied; "),
        (OSError(28, "No space left on device"), 1, "Error: a file or stream cannot be used: No space left on device;"),
        (KeyboardInterrupt(), 1, "Error: interrupted\n"),
        (click.UsageError(HOSTILE), 2, f"Error: {SHOWN}\n"),
        (click.Abort(), 1, "Error: interrupted\n"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_was_foreseen_is_one_message(error: BaseException, code: int, text: str) -> None:
    result = run(raising(error))
    assert result.exit_code == code
    assert text in result.stderr
    assert result.stdout == ""
    assert "Traceback" not in result.stderr


def test_a_path_given_twice_is_refused() -> None:
    result = run(lambda: None, "--report", "a.json", "--report", "b.json")
    assert (result.exit_code, "Error: --report was given 2 times; it takes one value" in result.stderr) == (2, True)
    assert run(lambda: None, "--report", "a.json").exit_code == 0


def test_a_mistake_of_ours_keeps_its_traceback() -> None:
    """Negative control."""
    assert isinstance(run(raising(KeyError("ours"))).exception, KeyError)


def test_wrong_usage_names_the_usage_and_no_forged_line() -> None:
    result = run(lambda: None, f"--{HOSTILE}")
    assert result.exit_code == 2
    usage, hint, empty, error = result.stderr.splitlines()
    assert (usage, hint, empty) == ("Usage: command [OPTIONS]", "Try 'command --help' for help.", "")
    assert error.startswith((f"Error: No such option: --{SHOWN}", f"Error: No such option '--{SHOWN}"))


def test_the_report_holds_the_error(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    assert run(raising(PermissionError(13, "Permission denied", "a")), "--report", str(path)).exit_code == 1
    assert json.loads(path.read_text())["error"].startswith("a cannot be used: Permission denied")
    result = run(raising(EffdetError("a")), "--report", str(tmp_path / "absent" / "report.json"))
    assert [line.partition(" ")[0] for line in result.stderr.splitlines()] == ["Error:", "Error:"]


def test_lines_are_shown_as_lines(capsys: pytest.CaptureFixture[str]) -> None:
    say("ä 猫", HOSTILE)
    say("b", err=True)
    write("\x1b[1mbold\x1b[0m\n")  # text that is ours; click leaves out colours where there is no terminal
    assert capsys.readouterr() == (f"ä 猫\n{SHOWN}\nbold\n", "b\n")


@pytest.mark.parametrize("arguments", [[], ["--help"]])
def test_success_is_exit_code_0(arguments: list[str]) -> None:
    assert run(lambda: None, *arguments).exit_code == 0


def test_click_itself_may_run_the_command() -> None:
    with pytest.raises(click.NoSuchOption):
        CliRunner().invoke(Command("x"), ["--a"], standalone_mode=False, catch_exceptions=False)
