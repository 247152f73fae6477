"""docs/tutorial.md: every command of the page, in its order; on a tiny network, and as it is written."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from effdet_torch import save_model
from support.coco_samples import small_model, write_coco, write_three_classes
from support.sessions import MINUTES, alike, printed, sessions

PAGE = Path(__file__).resolve().parents[2] / "docs" / "tutorial.md"
LEAST_AP = 0.4


def scores(folder: Path) -> tuple[dict[str, float], float]:
    """Return the AP of both copies in the best epoch, and the one that effdet-verify measured."""
    epochs = json.loads((folder / "runs" / "mine" / "results.json").read_text())["epochs"]
    found = [{copy: values["AP"] for copy, values in row["metrics"].items()} for row in epochs if row["metrics"]]
    report = json.loads((folder / "report" / "report.json").read_text())
    return max(found, key=lambda row: max(row.values())), report["detection"]["metrics"]["AP"]


@pytest.mark.slow
def test_the_commands_of_the_page_run(tmp_path: Path) -> None:
    """The whole way with a network of 64 pixels, for one epoch."""
    for split in ("train2017", "val2017"):
        write_coco(tmp_path / "my_data", split=split)
    save_model(small_model(), tmp_path / "start.pth")
    printed("effdet-convert start.pth my_training --to tf1", tmp_path)
    commands = list(sessions(PAGE))
    assert len(commands) >= 9
    for command in commands:
        printed(re.sub(r"--epochs \d+", "--epochs 1", command).replace("000000017627", "000000000007"), tmp_path)
    both, measured = scores(tmp_path)
    assert set(both) == {"ema", "raw"}
    assert measured == max(both.values())


@pytest.mark.slow
@pytest.mark.timeout(60 * MINUTES)
def test_the_page_is_true(shared: Path, tmp_path: Path) -> None:
    write_three_classes(shared, tmp_path / "my_data")
    (tmp_path / "my_training").symlink_to(shared / "trained_d0_256")
    for command, shown in sessions(PAGE).items():
        found = {alike(line) for line in printed(command, tmp_path)}
        assert [line for line in shown if alike(line) not in found] == [], f"{command} prints\n{found}"
    both, measured = scores(tmp_path)
    assert min(both.values()) >= LEAST_AP, both
    assert measured == max(both.values())


def test_a_command_that_fails_is_found(tmp_path: Path) -> None:
    """Negative control."""
    with pytest.raises(AssertionError, match=r"nothing\.pth"):
        printed("effdet-detect nothing.pth photo.jpg", tmp_path)


def test_what_may_vary_in_an_output() -> None:
    one = "epoch 1/40  loss 9.5  AP ema 0.5, raw 0.4  12 s  6.2 images/s"
    assert alike(one) == alike("epoch 1/40  loss 10.37  AP ema 1.5, raw 12.4  1:12  10 images/s")
    assert alike("PASS  240 of 240 comparisons") != alike("FAIL  239 of 240 comparisons")  # negative control
