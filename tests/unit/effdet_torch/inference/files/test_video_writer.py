"""Annotated videos: complete, as long and as large as the original, or not there at all."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from effdet_torch.errors import OutputError
from effdet_torch.inference.files.video_writer import VideoWriter
from support.videos import BLUE, RED, cv2, plain, read_video

SIZE = (64, 48)


@pytest.mark.parametrize("fps", [12.5, 30000 / 1001, 60.0, 2.5])
def test_frames_colours_size_and_rate(tmp_path: Path, fps: float) -> None:
    path = tmp_path / "new" / "clip.mp4"
    with VideoWriter(path, fps) as writer:
        for number in range(7):
            writer.add(plain(RED if number < 3 else BLUE), number / fps)
        assert not path.exists()
    rate, frames = read_video(path)
    assert (rate, len(frames), writer.written) == (pytest.approx(fps, abs=1e-3), 7, 7)
    for frame, color in ((frames[0], RED), (frames[-1], BLUE)):
        assert frame.shape == (48, 64, 3)
        assert np.abs(frame.astype(int) - color).max() < 20
        assert np.abs(frame[:, :, ::-1].astype(int) - color).max() > 200  # negative control: blue, green, red
    assert [file.name for file in path.parent.iterdir()] == ["clip.mp4"]


def test_odd_sizes_get_one_more_row_and_column(tmp_path: Path) -> None:
    """OpenCV would cut the last ones off."""
    with VideoWriter(tmp_path / "odd.mp4", 10) as writer:
        writer.add(plain(RED, (63, 47)), 0)
    assert read_video(tmp_path / "odd.mp4")[1][0].shape == (48, 64, 3)


def test_a_camera_keeps_its_pace(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "camera.mp4", 10, keeps_pace=True) as writer:
        for seconds in (0.0, 0.51, 0.52, 1.0):
            writer.add(plain(RED), seconds)
    assert len(read_video(tmp_path / "camera.mp4")[1]) == writer.written == 11  # 1 second at 10 frames per second


def written(path: Path, sizes: Iterable[tuple[int, int]], lost: int = 0, failure: BaseException | None = None) -> None:
    """Write a frame of each size; then fail, or count frames that are not there."""
    with VideoWriter(path, 10) as writer:
        for number, size in enumerate(sizes):
            writer.add(plain(RED, size), number / 10)
        writer.written += lost
        if failure is not None:
            raise failure


def test_nothing_stays_of_a_failed_block(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    path.write_text("an earlier one")
    with pytest.raises(KeyboardInterrupt):
        written(path, [SIZE], failure=KeyboardInterrupt())
    written(path, [])  # not a single frame
    assert [file.read_text() for file in tmp_path.iterdir()] == ["an earlier one"]
    written(path, [SIZE])  # negative control
    assert len(read_video(path)[1]) == 1


def test_what_a_killed_run_left_disappears(tmp_path: Path) -> None:
    path = tmp_path / "drawn" / "clip.mp4"
    program = f"""
import os, signal, numpy
from pathlib import Path
from effdet_torch.inference.files.video_writer import VideoWriter
with VideoWriter(Path({str(path)!r}), 10) as writer:
    writer.add(numpy.zeros((48, 64, 3), numpy.uint8), 0)
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == -signal.SIGKILL
    assert len(list(path.parent.iterdir())) == 1  # negative control: it did leave something
    written(path, [SIZE])
    assert [file.name for file in path.parent.iterdir()] == ["clip.mp4"]
    assert len(read_video(path)[1]) == 1


def test_two_runs_may_write_the_same_video(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    with VideoWriter(path, 10) as slow:
        slow.add(plain(RED), 0)
        written(path, [SIZE] * 3)
        assert len(read_video(path)[1]) == 3
    assert len(read_video(path)[1]) == 1
    assert list(tmp_path.iterdir()) == [path]


def test_a_name_that_opencv_cannot_take(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="its path is not valid UTF-8"):
        written(tmp_path / "\udc80.mp4", [SIZE])


def test_frames_of_another_size_are_refused(tmp_path: Path) -> None:
    """OpenCV would leave them out."""
    with pytest.raises(OutputError, match="frames change their size from 64 x 48 to 32 x 48; leave out --out"):
        written(tmp_path / "clip.mp4", [SIZE, (32, 48)])
    assert list(tmp_path.iterdir()) == []


def test_frames_that_did_not_arrive_are_noticed(tmp_path: Path) -> None:
    """As on a full disk, of which OpenCV does not tell."""
    with pytest.raises(OutputError, match="5 of 6 frames arrived in the file"):
        written(tmp_path / "clip.mp4", [SIZE] * 5, lost=1)
    assert list(tmp_path.iterdir()) == []


def test_a_codec_or_folder_that_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="Not a directory"):
        written(tmp_path / "file" / "new" / "a.mp4", [SIZE])
    monkeypatch.setattr(cv2, "VideoWriter_fourcc", lambda *_: 0x20202020)
    with pytest.raises(OutputError, match="OpenCV has no encoder"):
        written(tmp_path / "a.mp4", [SIZE])
    assert [file.name for file in tmp_path.iterdir()] == ["file"]
