"""Frames of videos, cameras and streams."""

from __future__ import annotations

import http.server
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from effdet_torch.errors import UsageError
from effdet_torch.inference.files import video as reading
from effdet_torch.inference.files.find import VideoSource
from effdet_torch.inference.files.video import Frame, Video, VideoError
from support.videos import BLUE, RED, FakeCapture, cv2, plain, write_video


def source(path: Path) -> VideoSource:
    return VideoSource(str(path), path.name, path)


def frames_of(where: VideoSource, every: int = 1, turn: bool = True) -> tuple[list[Frame], str | None]:
    with Video(where, turn) as video:
        return list(video.frames(every)), video.problem


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten frames at 12.5 per second: red left, and a white bar that moves; 64 x 48 pixels."""
    frames = []
    for number in range(10):
        frame = plain(BLUE)
        frame[:, :32] = RED
        frame[40:, 4 * number : 4 * number + 4] = 255
        frames.append(frame)
    return write_video(tmp_path_factory.mktemp("video") / "clip.mp4", frames)


def test_frames_are_rgb_and_have_their_numbers_and_times(clip: Path) -> None:
    frames, problem = frames_of(source(clip))
    assert problem is None
    assert [frame.number for frame in frames] == list(range(10))
    assert [frame.time for frame in frames] == pytest.approx([0.08 * number for number in range(10)])
    for number, (_, _, pixels) in enumerate(frames):
        assert (pixels.shape, pixels.dtype) == ((48, 64, 3), np.uint8)
        for (row, column), color in {(10, 10): RED, (10, 55): BLUE, (44, 4 * number + 2): (255, 255, 255)}.items():
            assert np.abs(pixels[row, column].astype(int) - color).max() < 40
            is_same_in_bgr = np.abs(pixels[row, column, ::-1].astype(int) - color).max() < 40
            assert is_same_in_bgr == (row == 44)  # negative control: the colours tell the orders apart


def test_every_third_frame(clip: Path) -> None:
    whole, _ = frames_of(source(clip))
    some, problem = frames_of(source(clip), every=3)
    assert problem is None
    assert [frame.number for frame in some] == [0, 3, 6, 9]
    for frame in some:
        assert frame.time == whole[frame.number].time
        np.testing.assert_array_equal(frame.pixels, whole[frame.number].pixels)


def test_rotation_in_the_metadata(clip: Path, tmp_path: Path) -> None:
    """A quarter turn to the right: the left side comes to the top."""
    content = clip.read_bytes()
    place = content.index(b"tkhd") + 4 + 40  # version 0: the matrix follows 40 bytes of other fields
    numbers = np.array([0, 65536, 0, -65536, 0, 0, 48 * 65536, 0, 1 << 30], ">i4").tobytes()
    turned = tmp_path / "turned.mp4"
    turned.write_bytes(content[:place] + numbers + content[place + len(numbers) :])
    upright = frames_of(source(turned))[0][0].pixels
    stored = frames_of(source(turned), turn=False)[0][0].pixels
    assert (upright.shape, stored.shape) == ((64, 48, 3), (48, 64, 3))
    np.testing.assert_array_equal(upright, np.rot90(stored, -1))
    assert upright[:20].mean(axis=(0, 1)).argmax() == 0


def test_frames_of_a_variable_rate_keep_their_times(monkeypatch: pytest.MonkeyPatch, clip: Path) -> None:
    """As MKV has them: no count in the file, so what the mean rate would make is announced, and fewer are there."""
    times = [0.0, 33.0, 500.0, 1300.0, 1400.0]
    facts = {cv2.CAP_PROP_FPS: 30.0, cv2.CAP_PROP_FRAME_COUNT: 43.0}
    monkeypatch.setattr(cv2, "VideoCapture", FakeCapture([plain(RED)] * 5, times_ms=times, facts=facts))
    frames, problem = frames_of(source(clip))
    assert ([frame.time for frame in frames], problem) == ([0.0, 0.033, 0.5, 1.3, 1.4], None)
    early = [0.0, 33.0, 66.0, 99.0, 133.0]  # negative control: one that ends before its announced length
    monkeypatch.setattr(cv2, "VideoCapture", FakeCapture([plain(RED)] * 5, times_ms=early, facts=facts))
    assert "seems to be truncated or damaged" in str(frames_of(source(clip))[1])


@pytest.mark.parametrize(
    ("pixels", "expected"),
    [(np.full((4, 4), 7, np.uint8), (7, 7, 7)), (np.full((4, 4, 4), (1, 2, 3, 9), np.uint8), (3, 2, 1))],
)
def test_a_camera_may_give_grey_or_alpha(
    monkeypatch: pytest.MonkeyPatch, pixels: reading.NDArray[np.uint8], expected: tuple[int, ...]
) -> None:
    capture = FakeCapture([pixels])
    monkeypatch.setattr(cv2, "VideoCapture", capture)
    with Video(VideoSource(0, "camera 0")) as video:
        assert (video.is_live, video.fps, video.frame_count) == (True, None, None)
        (frame,) = video.frames()
        assert frame.pixels.shape == (4, 4, 3)
        assert tuple(frame.pixels[0, 0].tolist()) == expected
        assert video.problem == "camera 0 ended or cannot be read any further; frames so far: 1"
    assert capture.is_released


def test_a_truncated_video_is_noticed(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    noise = (random.integers(0, 256, (48, 64, 3), dtype=np.uint8) for _ in range(60))
    whole = write_video(tmp_path / "whole.mkv", noise, fps=25)
    cut = tmp_path / "cut.mkv"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size * 6 // 10])
    frames, problem = frames_of(source(cut))
    assert 20 < len(frames) < 45
    assert problem is not None
    assert problem.startswith(f"cut.mkv seems to be truncated or damaged: {len(frames)} frames can be read, ")
    assert problem.endswith(" of 60 announced, 2.40 s. Copy or download it again")
    assert frames_of(source(whole))[1] is None  # negative control


@pytest.mark.parametrize("every", [1, 5])
@pytest.mark.parametrize("fps", [1000, 2000, 5000])
def test_a_truncated_video_with_a_rate_that_cannot_be(tmp_path: Path, fps: int, every: int) -> None:
    random = np.random.default_rng(0)
    noise = (random.integers(0, 256, (48, 64, 3), dtype=np.uint8) for _ in range(100))
    whole, cut = write_video(tmp_path / "whole.mkv", noise, fps, "MJPG"), tmp_path / "cut.mkv"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    assert "cut.mkv seems to be truncated or damaged: " in str(frames_of(source(cut), every)[1])
    assert frames_of(source(whole), every)[1] is None  # negative control
    with Video(source(whole)) as video:
        assert (video.stated_fps, video.fps) == (fps, fps if fps == 1000 else None)


@pytest.mark.parametrize("ticks", [1000, 90_000])
def test_ticks_of_a_clock_are_not_frames(monkeypatch: pytest.MonkeyPatch, clip: Path, ticks: int) -> None:
    """Ten frames, 40 ms each, in a file that states the ticks per second."""
    facts = {cv2.CAP_PROP_FPS: ticks, cv2.CAP_PROP_FRAME_COUNT: 0.4 * ticks}
    for count, is_whole in ((10, True), (5, False)):
        times = [40.0 * number for number in range(count)]
        monkeypatch.setattr(cv2, "VideoCapture", FakeCapture([plain(RED)] * count, times_ms=times, facts=facts))
        assert (frames_of(source(clip))[1] is None) == is_whole


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "clip.mp4 is not a video, or is damaged"),
        (b"nothing of the kind" * 100, "clip.mp4 is not a video, or is damaged"),
        (None, r"cannot read the video clip.mp4: No such file or directory; check its name"),
    ],
)
def test_what_is_no_video(tmp_path: Path, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / "clip.mp4").write_bytes(content)
    with pytest.raises(VideoError, match=message):
        Video(source(tmp_path / "clip.mp4"))


def test_folders_pipes_and_cut_files_are_refused(tmp_path: Path, clip: Path) -> None:
    (tmp_path / "folder.mp4").mkdir()
    os.mkfifo(tmp_path / "pipe.mp4")
    (tmp_path / "half.mp4").write_bytes(clip.read_bytes()[: clip.stat().st_size // 2])
    for name, message in (
        ("folder", "Is a directory"),
        ("pipe", "it is a pipe or a device"),
        ("half", "is not a video"),
    ):
        with pytest.raises(VideoError, match=message):
            Video(source(tmp_path / f"{name}.mp4"))


def test_a_file_that_names_other_files_is_refused(clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """FFmpeg would open what a script of a stranger names."""
    script = clip.with_name("script.mp4")
    script.write_text("ffconcat version 1.0\nfile clip.mp4\n")
    before = dict(os.environ)
    with pytest.raises(VideoError, match=r"script\.mp4 is not a video"):
        Video(source(script))
    assert dict(os.environ) == before
    monkeypatch.setattr(reading, "FILES_ONLY", "")  # negative control
    assert len(frames_of(source(script))[0]) == 10


def test_a_name_is_no_pattern_and_no_option(clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("%02d.mp4", "concat:a.mp4", "-i.mp4"):
        path = Path(name)
        path.write_bytes(clip.read_bytes())
        assert len(frames_of(source(path))[0]) == 10


def test_a_missing_camera_and_a_server_that_does_not_answer() -> None:
    with pytest.raises(VideoError, match="camera 77 cannot be opened; check that it is connected"):
        Video(VideoSource(77, "camera 77"))
    with pytest.raises(VideoError, match=r"the stream rtsp://127\.0\.0\.1:9/x cannot be opened"):
        Video(VideoSource("rtsp://127.0.0.1:9/x", "rtsp://127.0.0.1:9/x"))


@contextmanager
def serving(handler: Callable[..., http.server.BaseHTTPRequestHandler]) -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{running.server_address[1]}"
        running.shutdown()
        thread.join()


@pytest.fixture
def server(clip: Path) -> Iterator[str]:
    class Silent(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    with serving(partial(Silent, directory=clip.parent)) as address:
        yield f"{address}/clip.mp4"


def test_a_stream(server: str, clip: Path) -> None:
    frames, problem = frames_of(VideoSource(server, server))
    assert problem is None
    for streamed, local in zip(frames, frames_of(source(clip))[0], strict=True):
        np.testing.assert_array_equal(streamed.pixels, local.pixels)


def test_a_server_that_cannot_seek(tmp_path: Path) -> None:
    """The index of an MP4 of OpenCV is at its end; this one is too long for FFmpeg's memory of what it has read."""
    random = np.random.default_rng(0)
    noise = (random.integers(0, 256, (480, 640, 3), dtype=np.uint8) for _ in range(3))
    clip = write_video(tmp_path / "clip.mp4", noise)
    assert frames_of(source(clip))[1] is None  # negative control

    class Whole(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            with suppress(OSError):  # FFmpeg hangs up
                self.wfile.write(clip.read_bytes())

        def log_message(self, *_: object) -> None:
            pass

    with serving(Whole) as address:
        frames, problem = frames_of(VideoSource(f"{address}/clip.mp4", "clip.mp4"))
    assert frames == []
    assert problem is not None
    assert "its server may not support seeking (range requests)" in problem
    assert problem.endswith("Download it, and pass the file")


def test_names_that_opencv_cannot_take(clip: Path, tmp_path: Path) -> None:
    """OpenCV needs UTF-8."""
    path = tmp_path / "\udc80.mp4"
    path.write_bytes(clip.read_bytes())
    for where in (source(path), VideoSource("rtsp://\udc80", "a stream")):
        with pytest.raises(VideoError, match="its path is not valid UTF-8, which OpenCV needs; rename it"):
            Video(where)


def test_without_opencv(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(UsageError, match=r"need OpenCV .*pip install '\.\[video\]'"):
        Video(source(clip))
