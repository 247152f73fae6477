"""docs/examples: their commands exist, and what they install and copy is there."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.specifiers import SpecifierSet

import cli
from effdet_torch import __version__

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "docs" / "examples"
WHEEL = f"effdet_convert-{__version__}-py3-none-any.whl"
PROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def instructions() -> list[tuple[str, str]]:
    """Return (instruction, rest) of the lines of the Dockerfile; there are no others than these."""
    text = re.sub(
        r"\\\n", " ", re.sub(r"^#.*\n", "", (EXAMPLES / "Dockerfile").read_text(encoding="utf-8"), flags=re.M)
    )
    found = [line.split(maxsplit=1) for line in text.splitlines() if line.strip()]
    assert {name for name, _ in found} <= {"FROM", "WORKDIR", "COPY", "RUN", "ENV", "USER", "ENTRYPOINT", "CMD"}
    return [(name, rest) for name, rest in found]


def copied() -> list[list[str]]:
    """Return sources and target of what is copied from the checkout."""
    return [rest.split() for name, rest in instructions() if name == "COPY" and not rest.startswith("--from")]


def require_wheel(command: str) -> None:
    """Check the wheel that a command installs, and its extra."""
    pattern, extra = re.findall(r"/(effdet_convert-\S+\.whl)\)\[(\w+)\]", command)[0]
    assert fnmatch(WHEEL, pattern), command
    assert re.search(rf"^{extra} = ", PROJECT, re.MULTILINE), command


def workflow() -> list[dict[str, Any]]:
    steps: list[dict[str, Any]] = yaml.safe_load((EXAMPLES / "github_action.yml").read_text(encoding="utf-8"))["jobs"][
        "parity"
    ]["steps"]
    return steps


def test_the_workflow_installs_a_wheel_and_runs_commands_that_exist() -> None:
    """The name is on no package index yet."""
    runs = [step["run"] for step in workflow() if "run" in step]
    (install,) = (run for run in runs if ".whl" in run)
    require_wheel(install)
    commands = [shlex.split(run) for run in runs if run.startswith("effdet-")]
    assert len(commands) == 2
    for name, *arguments in commands:
        getattr(cli, name.removeprefix("effdet-")).make_context(name, arguments)
    text = (ROOT / "docs" / "ci.md").read_text(encoding="utf-8")
    assert all(shlex.join(words) in text for words in commands)


def test_the_model_is_kept_only_if_the_proof_holds() -> None:
    steps = workflow()
    (proof,) = (number for number, step in enumerate(steps) if "--require" in step.get("run", ""))
    (kept,) = (number for number, step in enumerate(steps) if step.get("with", {}).get("path") == "model.pth")
    assert proof < kept
    assert "if" not in steps[kept]


def test_the_image_starts_a_command_that_exists() -> None:
    rows = dict(instructions())
    (command,) = yaml.safe_load(rows["ENTRYPOINT"])
    assert re.search(rf'^{command} = "cli:', PROJECT, re.MULTILINE)
    assert rows["USER"] == "nobody"
    require_wheel(next(rest for name, rest in instructions() if name == "RUN" and ".whl" in rest))
    python = next(rest for name, rest in instructions() if name == "FROM").partition(":")[2].partition("-")[0]
    (supported,) = re.findall(r'^requires-python = "(.*)"$', PROJECT, re.MULTILINE)
    assert python in SpecifierSet(supported)


@pytest.mark.slow
def test_what_the_image_copies_is_enough_for_a_wheel(tmp_path: Path) -> None:
    source = tmp_path / "src"
    source.mkdir()
    for *names, target in copied():
        for name in names:
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, source / target, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(ROOT / name, source / target)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--wheel-dir", str(tmp_path / "wheels"), str(source)]
    subprocess.run(command, check=True, capture_output=True)
    with zipfile.ZipFile(tmp_path / "wheels" / WHEEL) as wheel:
        names = set(wheel.namelist())
    expected = {
        path.relative_to(ROOT).as_posix()
        for package in ("converter", "effdet_torch", "mappings", "verify")
        for path in (ROOT / package).rglob("*.py")
    }
    assert expected | {"cli.py"} <= names
