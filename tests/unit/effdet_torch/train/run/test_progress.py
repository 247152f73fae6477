"""The bar of an epoch, the line of an epoch, and the time left."""

from __future__ import annotations

import io
import re
import sys

import pytest

from effdet_torch.terminal import bar
from effdet_torch.train.run.progress import RunProgress, duration, epoch_line
from support.train_results import epoch_result


class Clock:
    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def test_the_time_left_is_that_of_the_whole_run() -> None:
    clock = Clock()
    progress = RunProgress(epochs=3, images=100, clock=clock)
    with progress.epoch(1) as update:
        clock.seconds = 10
        update(50, 1.0, None)
        assert progress.seconds_left(50) == 50
        clock.seconds = 20
        update(100, 1.0, None)
    clock.seconds = 40  # a validation
    with progress.epoch(2) as update:
        clock.seconds = 50
        update(50, 1.0, None)
        assert progress.seconds_left(150) == 50  # 150 images in 50 s


def test_a_resumed_run_counts_its_own_images() -> None:
    clock = Clock()
    progress = RunProgress(epochs=3, images=100, clock=clock)
    with progress.epoch(2, first=50) as update:
        clock.seconds = 10
        update(75, 1.0, None)
        assert progress.seconds_left(175) == 50  # 25 images in 10 s, 125 images left


@pytest.mark.parametrize("columns", [40, 80, 300])
def test_the_bar_fits_its_line(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    stream, clock = io.StringIO(), Clock()
    monkeypatch.setattr(stream, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(bar, "width_of", lambda _: columns)
    progress = RunProgress(epochs=50, images=100_000, clock=clock)
    with progress.epoch(12) as update:
        for done in range(10_000, 100_001, 10_000):
            clock.seconds += 1000
            update(done, 1.2345678, 34_500_000_000)
    lines = [re.sub(r"\x1b\[\S+?[a-zA-Z]", "", line) for line in stream.getvalue().split("\r")]
    drawn = [line for line in lines if "%" in line]
    assert len(drawn) >= 10
    assert max(map(len, drawn)) < columns
    if columns > 40:
        assert drawn[-1].startswith("epoch 12/50  loss 1.235, 10.0/s, 105:33:20 left, 34.5 GB")


def test_no_bar_where_nobody_sees_it(capsys: pytest.CaptureFixture[str]) -> None:
    progress = RunProgress(epochs=1, images=10)
    with progress.epoch(1) as update:
        update(10, 1.0, None)
    assert capsys.readouterr() == ("", "")
    progress.tell(epoch_result(1))
    assert capsys.readouterr().out.startswith("epoch 1/1  loss 2, class 1, box 0.02")


def test_the_line_of_an_epoch() -> None:
    text = "epoch 2/9  loss 1, class 0.5, box 0.01  lr 0.04  AP ema 25.0, raw 12.5  25 s  5.0 images/s  2.0 GB"
    assert epoch_line(epoch_result(2), 9) == text
    assert "AP" not in epoch_line(epoch_result(2, None), 9)
    nothing = epoch_result(2, metrics={"raw": {"AP": -1.0}}, memory_bytes=None)
    assert "  AP raw n/a  25 s  5.0 images/s" in epoch_line(nothing, 9)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59.4, "59 s"), (59.6, "1:00"), (187, "3:07"), (7387, "2:03:07")]
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text
