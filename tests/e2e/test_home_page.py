"""docs/index.md: every command of the page, in its order, prints what the page shows."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from support.coco_samples import write_three_classes
from support.sessions import MINUTES, alike, printed, sessions

PAGE = Path(__file__).resolve().parents[2] / "docs" / "index.md"
SLOW = ("effdet verify", "effdet train", "d0.onnx")  # TensorFlow, a minute of training, a second engine
PHOTO = "000000017627.jpg"


@pytest.mark.timeout(10 * MINUTES)
@pytest.mark.parametrize("all_of_it", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_the_commands_print_what_the_page_shows(all_of_it: bool, shared: Path, tmp_path: Path) -> None:
    (tmp_path / "my_training").symlink_to(shared / "trained_d0_256")
    (tmp_path / "photo.jpg").symlink_to(shared / "coco50" / "val2017" / PHOTO)
    write_three_classes(shared, tmp_path / "my_data")
    commands = sessions(PAGE)
    assert {command.split()[1] for command in commands} == {"convert", "verify", "detect", "train", "export"}
    for command, shown in commands.items():
        if not all_of_it and any(part in command for part in SLOW):
            continue
        found = printed(command, tmp_path)
        same = {alike(line) for line in found}
        assert [line for line in shown if alike(line) not in same] == [], f"{command} prints\n{found}"
        assert "detect" not in command or found == shown  # counts, which `alike` lets vary


def test_the_python_of_the_page_runs(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (code,) = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    (tmp_path / "photo.jpg").symlink_to(shared / "coco50" / "val2017" / PHOTO)
    (tmp_path / "my_training").symlink_to(shared / "trained_d0_256")
    printed("effdet convert my_training d0.pth", tmp_path)
    monkeypatch.chdir(tmp_path)
    exec(code, {})
    assert capsys.readouterr().out.count("'car'") == 11
