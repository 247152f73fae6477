"""Code in the pages: commands have options that exist, Python compiles, and what it imports from us is there."""

from __future__ import annotations

import ast
import importlib
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

import cli
from support.sessions import blocks, typed

ROOT = Path(__file__).resolve().parents[2]
PAGES = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md")))
EVERY = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
OURS = ("benchmarks", "converter", "effdet_torch", "verify")


def parse(words: list[str]) -> None:
    """Parse a command as it would be when it is run.

    Raises:
        click.UsageError: An option, a value or a verb does not exist.
    """
    name, *arguments = words
    command: click.Command = cli.effdet
    if name != "effdet":
        command = getattr(cli, name.removeprefix("effdet-"))
    elif arguments and not arguments[0].startswith("-"):
        verb, found, arguments = cli.effdet.resolve_command(click.Context(cli.effdet), arguments)
        assert found is not None, verb
        command = found
    if not {"--help", "--version", "--list"} & set(arguments):
        command.make_context(name, arguments)


def complaint(words: list[str]) -> str:
    """Return what is wrong with a command."""
    try:
        parse(words)
    except click.UsageError as error:
        return error.format_message()
    return ""


@EVERY
def test_every_command_parses(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    wrong = {" ".join(words): error for words in typed(page) if (error := complaint(words))}
    assert wrong == {}


def test_commands_are_found_and_wrong_ones_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control."""
    monkeypatch.chdir(tmp_path)
    page = tmp_path / "page.md"
    page.write_text(
        "Text\n\n    $ effdet-convert a b.pth --dry-run\n    effdet-convert is printed\n\nText\n\n"
        "    pip x && effdet detect a b --scroe 1\n\n"
        "```bash\neffdet-export a.pth b.onnx \\\n  --nms sotf  # comment\n```\n"
    )
    first, second, third = typed(page)
    assert first == ["effdet-export", "a.pth", "b.onnx", "--nms", "sotf"]
    assert second == ["effdet-convert", "a", "b.pth", "--dry-run"]
    assert complaint(second) == ""
    for wrong in (first, third, ["effdet", "convrt", "a"]):
        assert complaint(wrong) != ""


def python(page: Path) -> Iterator[str]:
    """Yield what is Python: blocks that begin like it."""
    for block in map(textwrap.dedent, blocks(page)):
        if re.match(r"(?:from \w[\w.]* import|import \w)", block.lstrip()) and not block.lstrip().startswith("$"):
            yield block


def parsed(code: str) -> ast.Module:
    """Parse a block; what it prints may stand below the last empty line."""
    try:
        return ast.parse(code)
    except SyntaxError:
        program, empty, _ = code.strip().rpartition("\n\n")
        if not empty:
            raise
        return ast.parse(program)


def missing(code: str) -> Iterator[str]:
    """Yield what is imported from our packages and is not there."""
    for node in ast.walk(parsed(code)):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.partition(".")[0] in OURS:
            module = importlib.import_module(node.module)
            yield from (f"{node.module}.{item.name}" for item in node.names if not hasattr(module, item.name))


@EVERY
def test_python_compiles_and_imports_what_exists(page: Path) -> None:
    for code in python(page):
        assert list(missing(code)) == [], page.name


def test_missing_names_are_noticed(tmp_path: Path) -> None:
    """Negative control."""
    page = tmp_path / "page.md"
    page.write_text("Text\n\n    from effdet_torch import Predictr, load_model\n\n    load_model(1)\n\nText\n")
    (code,) = python(page)
    assert list(missing(code)) == ["effdet_torch.Predictr"]
    assert "load_model(1)" in code
    assert list(missing(f"{code}\ntoilet 0.98 [1, 2]\n")) == ["effdet_torch.Predictr"]
    with pytest.raises(SyntaxError):
        parsed("import re\nre.compile(\n")
