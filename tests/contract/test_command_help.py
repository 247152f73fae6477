"""`--help`: fast, complete, with examples that work."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest

import cli
from effdet_torch.processing.profiles import PROFILES
from support.commands import run, run_here, script

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 0.15
SCRIPTS: dict[str, str] = dict(
    re.findall(r'^(\S+) = "cli:(\w+)"$', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
)
GROUP = SCRIPTS.pop("effdet")  # its verbs have their own tests
ALL = pytest.mark.parametrize("name", SCRIPTS)


def command(name: str) -> click.Command:
    found = getattr(cli, SCRIPTS[name])
    assert isinstance(found, click.Command)
    return found


def examples(name: str) -> list[str]:
    """Return the examples in a command's help, as printed."""
    text = command(name).get_help(click.Context(command(name), info_name=name))
    _, _, after = text.partition("Examples:\n")
    return [line.strip() for line in after.splitlines() if line.strip()]


def test_every_command_is_installed() -> None:
    in_module = {key for key, value in vars(cli).items() if isinstance(value, click.Command)}
    assert {*SCRIPTS.values(), GROUP, "doctor", "evaluate"} == in_module  # the last two are verbs alone
    assert set(SCRIPTS) >= {"effdet-convert", "effdet-inspect"}


@ALL
def test_help_has_examples_that_parse(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = examples(name)
    assert len(found) >= 2
    for example in found:
        first, *arguments = shlex.split(example)
        assert first == name
        command(name).make_context(name, arguments)  # raises where an option or a value does not exist


@pytest.mark.parametrize("name", ["effdet-detect", "effdet-verify"])
def test_every_profile_is_listed(name: str) -> None:
    (option,) = (option for option in command(name).params if option.name == "profile")
    assert isinstance(option, click.Option)
    assert option.help is not None
    assert PROFILES.keys() <= set(re.findall(r"[\w-]+", option.help))


def test_an_example_with_a_wrong_option_is_found() -> None:
    """Negative control."""
    with pytest.raises(click.NoSuchOption):
        cli.convert.make_context("effdet-convert", ["folder", "out.pth", "--varaint", "d0"])


@ALL
def test_the_installed_command_prints_the_same_help_and_its_version(name: str, tmp_path: Path) -> None:
    done = run(name, "--help", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"Usage: {name} [OPTIONS] ")
    assert all(example in done.stdout for example in examples(name))
    assert run(name, "-h", cwd=tmp_path).stdout == done.stdout
    done = run(name, "--version", cwd=tmp_path)
    assert re.fullmatch(rf"{name}, version \d+\.\d+\.\d+\n", done.stdout)


@ALL
def test_quiet_and_verbose_contradict_each_other(name: str, tmp_path: Path) -> None:
    done = run_here(name, "a", "b", "-qv", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.endswith("Error: -q and -v contradict each other; give one of them\n")
    for flag in (
        "-q",
        "-v",
        "--quiet",
        "--verbose",
    ):  # negative control: each alone is understood, so the files are missed
        assert "no such option" not in run_here(name, "a", "b", flag, cwd=tmp_path).stderr.lower()


@ALL
def test_every_option_is_explained(name: str) -> None:
    options = [item for item in command(name).params if isinstance(item, click.Option)]
    assert all(option.help for option in options)


@ALL
def test_help_loads_no_heavy_module(name: str, tmp_path: Path) -> None:
    code = (
        f"import sys, cli\ntry:\n    cli.{SCRIPTS[name]}(['--help'])\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'tensorflow', 'numpy', 'yaml'} & set(sys.modules)\n"
        "sys.exit(f'loaded: {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def best_seconds(words: list[str], runs: int = 5) -> float:
    """Return the shortest time of several runs, which is least disturbed by other processes."""
    times = []
    for _ in range(runs):
        begin = time.perf_counter()
        subprocess.run(words, capture_output=True, check=True)
        times.append(time.perf_counter() - begin)
    return min(times)


@ALL
def test_help_is_fast(name: str) -> None:
    bare = best_seconds([sys.executable, "-c", "pass"])
    # On a slow or busy machine the bare interpreter is slow as well: the limit is relative to it.
    assert best_seconds([script(name), "--help"]) < max(SECONDS, 8 * bare)
    assert bare < SECONDS, "this machine is too busy to measure"
