"""Commands print through `effdet_torch.terminal.text` alone, which escapes what strangers put into names."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("converter", "effdet_torch", "mappings", "verify")
PLACE = "effdet_torch/terminal/text.py"
PRINTERS = {"print", "click.echo", "click.secho", "sys.stdout.write", "sys.stderr.write"}


def printing(source: str) -> Iterator[str]:
    """Yield the calls of a file that print text as it is."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in PRINTERS:
            yield f"line {node.lineno}: {ast.unparse(node.func)}"


def test_one_module_prints() -> None:
    files = {path.relative_to(ROOT).as_posix(): path for package in PACKAGES for path in (ROOT / package).rglob("*.py")}
    found = {name: list(printing(path.read_text("utf-8"))) for name, path in files.items()}
    assert {name for name, calls in found.items() if calls} == {PLACE}


def test_a_print_is_found() -> None:
    """Negative control."""
    assert list(printing("import click\n\ndef f(x):\n    click.echo(x)\n    print(x)\n    fprint(x)\n")) == [
        "line 4: click.echo",
        "line 5: print",
    ]
