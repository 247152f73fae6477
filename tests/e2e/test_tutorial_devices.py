"""docs/tutorial_devices.md: every command of the page, in its order; on a tiny network, and as it is written."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from support.coco_samples import write_coco, write_three_classes
from support.sessions import MINUTES, alike, printed, sessions

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "tutorial_devices.md"
EXAMPLE = ROOT / "docs" / "examples" / "litert_detect.py"
LEAST_AP = 0.3
MOST_LOST = 0.02  # of AP, in 8 bits


def run_page(folder: Path, **changes: str) -> dict[str, list[str]]:
    """Run all commands of the page, with other words in them, and return what they print."""
    (folder / EXAMPLE.name).symlink_to(EXAMPLE)
    found = {}
    for command in sessions(PAGE):
        changed = command
        for old, new in changes.items():
            changed = changed.replace(old, new)
        found[command] = printed(changed, folder)
    return found


def same(line: str) -> str:
    """Return a line as every training prints it: what is found in a photograph, and which class first, varies."""
    return re.sub(r"\.jpg: .*|^(car|person|bus)( 0)+$", "found", alike(line))


@pytest.mark.slow
def test_the_commands_of_the_page_run(tmp_path: Path) -> None:
    """The whole way at 128 pixels, for one epoch."""
    for split in ("train2017", "val2017"):
        write_coco(tmp_path / "my_data", split=split)
    changes = {"--epochs 80": "--epochs 1", "--image-size 256": "--image-size 128", "000000017627": "000000000007"}
    found = run_page(tmp_path, **changes)
    assert len(found) == len(sessions(PAGE)) >= 7
    assert any("ranges measured on" in line for lines in found.values() for line in lines)


@pytest.mark.slow
@pytest.mark.timeout(60 * MINUTES)
def test_the_page_is_true(shared: Path, tmp_path: Path) -> None:
    write_three_classes(shared, tmp_path / "my_data")
    for command, lines in run_page(tmp_path).items():
        found = {same(line) for line in lines}
        shown = sessions(PAGE)[command]
        assert [line for line in shown if same(line) not in found] == [], f"{command} prints\n{found}"
    scores = []
    for name in ("mine.tflite", "mine_int8.tflite"):
        printed(f"effdet-verify {name} --data my_data --report-dir {name}.report", tmp_path)
        report = json.loads((tmp_path / f"{name}.report" / "report.json").read_text())
        scores.append(report["detection"]["metrics"]["AP"])
    assert scores[0] >= LEAST_AP
    assert scores[1] >= scores[0] - MOST_LOST
    assert (tmp_path / "mine_int8.tflite").stat().st_size < 0.35 * (tmp_path / "mine.tflite").stat().st_size


def test_the_numbers_of_the_page_are_those_of_one_run() -> None:
    """AP of both files, which two places of the page state."""
    text = PAGE.read_text(encoding="utf-8")
    stated = re.search(r"AP (\d+\.\d+) and (\d+\.\d+)\.", text)
    assert stated
    assert f"AP         {stated[1]}" in text
    assert float(stated[1]) >= float(stated[2]) - 100 * MOST_LOST
