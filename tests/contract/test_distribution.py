"""What is installed and shipped: own packages and no foreign ones, types, and every file in the archives."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from support.commands import script

ROOT = Path(__file__).parents[2]
PACKAGES = ("converter", "effdet_torch", "mappings", "verify")


def help_with(path: Path) -> subprocess.CompletedProcess[str]:
    """Ask for help with a folder in front of all others on Python's path."""
    environment = os.environ | {"PYTHONPATH": str(path)}
    return subprocess.run(
        [script("effdet-inspect"), "--help"], env=environment, capture_output=True, text=True, check=False, cwd=path
    )


@pytest.mark.parametrize("name", [*(f"{name}/__init__.py" for name in PACKAGES), "verify.py"])
def test_a_foreign_package_of_the_same_name_is_named(tmp_path: Path, name: str) -> None:
    foreign = tmp_path / name
    foreign.parent.mkdir(exist_ok=True)
    foreign.write_text("raise RuntimeError('a foreign package was imported')\n")
    done = help_with(tmp_path)
    assert done.returncode == 1
    assert done.stdout == ""
    found = foreign if name == "verify.py" else foreign.parent
    assert done.stderr.startswith(f"Error: Python finds {found} for '{found.stem}'; expected ")
    assert done.stderr.count("\n") == 1


def test_other_packages_do_not_matter(tmp_path: Path) -> None:
    (tmp_path / "converters").mkdir()
    done = help_with(tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


def test_types_are_announced() -> None:
    for name in PACKAGES:
        assert (ROOT / name / "py.typed").is_file()


@pytest.mark.slow
def test_the_archives_hold_every_file(tmp_path: Path) -> None:
    """The source archive can be tested like a clone; the wheel holds the packages whole."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git repository")
    command = [sys.executable, "-m", "build", "--outdir", str(tmp_path), str(ROOT)]
    subprocess.run(command, capture_output=True, text=True, check=True)
    files = set(listed.stdout.splitlines())
    (source,), (wheel,) = tmp_path.glob("*.tar.gz"), tmp_path.glob("*.whl")
    with tarfile.open(source) as archive:
        inside = {name.partition("/")[2] for name in archive.getnames()}
    assert files - inside == set()
    packaged = {file for file in files if file.partition("/")[0] in (*PACKAGES, "cli.py")}
    with zipfile.ZipFile(wheel) as archive:
        assert {name for name in archive.namelist() if ".dist-info/" not in name} == packaged
