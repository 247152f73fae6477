"""docs/results.md: its Python prints what it shows."""

import re
from pathlib import Path

import pytest

from support.commands import run

PAGE = Path(__file__).resolve().parents[2] / "docs" / "results.md"


def test_python_prints_what_is_shown(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    blocks = re.findall(r"(?:^    .*\n|^\n(?=    ))+", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    code, shown = (
        re.sub(r"^    ", "", block, flags=re.MULTILINE).strip() for block in re.split(r"\n\n(?=    3 )", blocks[0])
    )
    (tmp_path / "photos").symlink_to(shared / "coco50" / "val2017")
    assert run("effdet-convert", shared / "trained_d0_256", "d0.pth", cwd=tmp_path).returncode == 0
    monkeypatch.chdir(tmp_path)
    exec(code, {})
    assert capsys.readouterr().out.strip() == shown
