"""`effdet-detect` on videos and cameras, and what a call asks for."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

import cli
from effdet_torch.inference.files import detect_video
from effdet_torch.inference.files.detect_video import VideoRun
from effdet_torch.inference.files.find import VideoSource
from effdet_torch.inference.files.places import Places
from effdet_torch.inference.images import read_image
from effdet_torch.inference.predict import Predictor
from support.coco_samples import write_model
from support.videos import FakeCapture, Pixels, cv2, read_video, write_video

FRAMES = 7


@pytest.fixture(scope="module")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "small.pth", num_classes=3, max_level=7)


def noise(count: int = FRAMES) -> list[Pixels]:
    random = np.random.default_rng(0)
    return [random.integers(0, 256, (48, 64, 3), dtype=np.uint8) for _ in range(count)]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder with an image, a video of noise and names."""
    monkeypatch.chdir(tmp_path)
    write_video(tmp_path / "clip.mp4", noise())
    Image.fromarray(noise()[0]).save("a.png")
    (tmp_path / "names.txt").write_text("cat\ndog\nwine glass\n")
    return tmp_path


def detect(model: Path, *arguments: object) -> Result:
    words = [model, *arguments, "--labels", "names.txt", "--score", 0, "--max-detections", 4]
    return CliRunner().invoke(cli.detect, list(map(str, words)))


def found_in(path: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(Path(path).read_text())
    return found


def test_a_video(model_file: Path, folder: Path) -> None:
    done = detect(model_file, "clip.mp4", "a.png", "--out", "drawn", "--json", "r.json", "--crops", "crops")
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["a.png", *(f"clip.mp4#{n}" for n in range(FRAMES))]
    rate, end = done.stderr.split("; ")
    assert rate.startswith(f"clip.mp4: {FRAMES} frames in ")
    assert rate.endswith(" frames/s")
    assert end == "drawn/clip.mp4: mp4v, 12.5 frames/s\n"
    entries = [entry for entry in found_in("r.json") if entry["image_id"] != "a.png"]
    frames, predictor = read_video(Path("clip.mp4"))[1], Predictor(model_file, score_threshold=0, max_detections=4)
    for number, pixels in enumerate(frames):
        own = [entry for entry in entries if entry["image_id"] == f"clip.mp4#{number}"]
        assert [(entry["frame"], entry["time"]) for entry in own] == [(number, round(number / 12.5, 3))] * 4
        (expected,) = predictor(np.ascontiguousarray(pixels))
        assert [entry["score"] for entry in own] == expected.scores.tolist()
        (other,) = predictor(np.ascontiguousarray(pixels[:, :, ::-1]))  # negative control: blue, green, red
        assert expected.scores.tolist() != other.scores.tolist()
        assert [entry["category_name"] for entry in own] == [
            {1: "cat", 2: "dog", 3: "wine glass"}[number] for number in expected.category_ids.tolist()
        ]
    drawn = read_video(Path("drawn/clip.mp4"))
    assert (drawn[0], len(drawn[1]), drawn[1][0].shape) == (12.5, FRAMES, (48, 64, 3))
    crops = {path.name[:6] for path in Path("crops/clip").iterdir()}
    assert crops <= {f"{number:06d}" for number in range(FRAMES)}  # some boxes of this network have no area
    assert len(crops) > 1
    assert list(Path("crops").glob("a_*_[1-4].png"))


def test_some_frames(model_file: Path, folder: Path) -> None:
    done = detect(model_file, "clip.mp4", "--every", 3, "--out", "drawn", "--json", "r.json")
    assert [line.partition(":")[0] for line in done.stdout.splitlines()] == [f"clip.mp4#{n}" for n in (0, 3, 6)]
    assert [entry["frame"] for entry in found_in("r.json")] == [0] * 4 + [3] * 4 + [6] * 4
    rate, frames = read_video(Path("drawn/clip.mp4"))
    assert (rate, len(frames)) == (pytest.approx(12.5 / 3, abs=1e-3), 3)


@pytest.mark.parametrize("every", [1, 2])
def test_batches_as_on_a_gpu(model_file: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, every: int) -> None:
    """The same frames in the same order; 7 do not make whole batches of 3."""
    predictor, clip = Predictor(model_file, score_threshold=0.5), VideoSource("clip.mp4", "clip.mp4", Path("clip.mp4"))
    alone = list(VideoRun(predictor, clip, Places(), every=every))
    monkeypatch.setattr(Predictor, "device_type", "cuda")
    sizes, call = list[int](), Predictor.__call__

    def counted(self: Predictor, images: Any, batch_size: int = 8) -> Any:
        sizes.append(len(batch := list(images)))
        return call(self, batch, batch_size)

    monkeypatch.setattr(Predictor, "__call__", counted)
    together = list(VideoRun(predictor, clip, Places(), 3, every))
    assert sizes == ([3, 3, 1] if every == 1 else [3, 1])
    assert [one.name for one in together] == [one.name for one in alone]
    for one, other in zip(together, alone, strict=True):
        assert one.place == other.place
        assert [entry["score"] for entry in one.coco] == pytest.approx([entry["score"] for entry in other.coco])
    assert alone[0].coco != alone[-1].coco  # negative control


def test_an_unreadable_video_is_left_out(model_file: Path, folder: Path) -> None:
    Path("broken.mp4").write_text("nothing")
    done = detect(model_file, "broken.mp4", "missing.mp4", "clip.mp4", "--json", "r.json")
    assert (done.exit_code, len(done.stdout.splitlines())) == (1, FRAMES)
    errors = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    assert [error.split(",")[0] for error in errors] == [
        "Error: broken.mp4 is not a video",
        "Error: cannot read the video missing.mp4: No such file or directory; check its name and folder",
    ]
    assert {entry["image_id"] for entry in found_in("r.json")} == {f"clip.mp4#{n}" for n in range(FRAMES)}


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """Let Ctrl-C interrupt, also where whoever started the tests has it ignored, as background jobs do."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c")
def test_a_camera_ends_with_ctrl_c(model_file: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    capture = FakeCapture(noise(5), at={3: lambda: os.kill(os.getpid(), signal.SIGINT)})
    real = cv2.VideoCapture  # which checks the written video
    monkeypatch.setattr(cv2, "VideoCapture", lambda *args: capture if args[0] == 2 else real(*args))
    done = detect(model_file, "2", "--out", "drawn", "--json", "r.json")
    assert (done.exit_code, capture.is_released) == (0, True), done.output
    assert [line.partition(":")[0] for line in done.stdout.splitlines()] == [f"camera 2#{n}" for n in range(4)]
    assert "drawn/camera-2.mp4: mp4v, 25 frames/s, as long as it took" in done.stderr
    assert read_video(Path("drawn/camera-2.mp4"))[1]
    times = {entry["frame"]: entry["time"] for entry in found_in("r.json")}
    assert list(times) == [0, 1, 2, 3]
    assert sorted(times.values()) == list(times.values())


def test_a_camera_that_is_unplugged(model_file: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cv2, "VideoCapture", FakeCapture(noise(2)))
    done = detect(model_file, "2", "--json", "r.json")
    assert done.exit_code == 1
    assert "Error: camera 2 ended or cannot be read any further; frames so far: 2" in done.stderr
    assert len(found_in("r.json")) == 8


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_keeps_what_is_done(model_file: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_video(folder / "second.mp4", noise(1))
    draw, drawn = detect_video.draw_detections, list[int]()

    def interrupt_at_the_third(*arguments: Any) -> Image.Image:
        drawn.append(0)
        if len(drawn) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return draw(*arguments)

    monkeypatch.setattr(detect_video, "draw_detections", interrupt_at_the_third)
    handler = signal.getsignal(signal.SIGINT)
    done = detect(model_file, "clip.mp4", "second.mp4", "--out", "drawn", "--json", "r.json")
    assert signal.getsignal(signal.SIGINT) == handler
    assert done.exit_code == 1
    errors = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    assert errors == [
        f"Error: clip.mp4 was interrupted; what was found in its first 3 of {FRAMES} frames is kept",
        "Error: second.mp4 was not begun",
    ]
    assert len(read_video(Path("drawn/clip.mp4"))[1]) == 3
    assert [entry["frame"] for entry in found_in("r.json")] == [0] * 4 + [1] * 4 + [2] * 4
    assert sorted(path.name for path in Path("drawn").iterdir()) == ["clip.mp4"]


# What a call asks for


def test_classes_names_and_a_quiet_run(model_file: Path, folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    done = detect(model_file, "a.png", "--classes", "Dog, wine glass", "--json", "-", "--quiet")
    assert (done.exit_code, done.stderr) == (0, "")
    entries = json.loads(capfd.readouterr().out)
    assert len(entries) == 4
    assert {entry["category_name"] for entry in entries} <= {"dog", "wine glass"}
    line = detect(model_file, "a.png", "--classes", "2").stdout
    assert line == "a.png: 4 dogs\n"


def test_a_class_whose_name_holds_a_comma(model_file: Path, folder: Path) -> None:
    Path("names.txt").write_text("cat\ndog, small\ndog\n")
    assert "4 dog, small" in detect(model_file, "a.png", "--classes", '"dog, small"').stdout.replace(" x", "")


def test_a_rate_that_cannot_be(model_file: Path, folder: Path) -> None:
    write_video(folder / "fast.mkv", noise(), 2000, "MJPG")
    done = detect(model_file, "fast.mkv", "--out", "drawn")
    assert done.exit_code == 0
    assert "25 frames/s (assumed: the video states 2000, too many to be a frame rate)" in done.stderr


def test_folders_below(model_file: Path, folder: Path) -> None:
    Path("sub/deep").mkdir(parents=True)
    Path("a.png").rename("sub/deep/b.png")
    done = detect(model_file, "sub")
    assert (done.exit_code, "no image found: sub" in done.stderr) == (2, True)
    assert detect(model_file, "sub", "--recursive").stdout.startswith("sub/deep/b.png: ")
    done = detect(model_file, ".", "--recursive")
    assert "left out: files in folders whose suffix is not that of an image (" in done.stderr
    assert done.stderr.endswith("; name videos themselves\n")


def test_crops_follow_exif(model_file: Path, folder: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(noise()[0]).save("t.png", exif=exif)
    upright = np.rot90(noise()[0], -1)
    assert detect(model_file, "t.png", "--crops", "c", "--json", "r.json").exit_code == 0
    names = set()
    for number, entry in enumerate(found_in("r.json"), 1):
        left, top, width, height = entry["bbox"]
        name = entry["category_name"].replace(" ", "-")
        rows = slice(int(max(top, 0)), int(np.ceil(top + height)))
        columns = slice(int(max(left, 0)), int(np.ceil(left + width)))
        if (expected := upright[rows, columns]).size:  # a box may lie beside the image
            names.add(f"t_{name}_{number}.png")
            np.testing.assert_array_equal(read_image(Path(f"c/t_{name}_{number}.png")), expected)
    assert names == {path.name for path in Path("c").iterdir()} != set()


def test_a_crop_replaces_no_file_of_the_run(model_file: Path, folder: Path) -> None:
    assert detect(model_file, "a.png", "--crops", ".").exit_code == 0
    crop = next(folder.glob("a_*.png"))
    before = crop.read_bytes()
    done = detect(model_file, "a.png", crop.name, "--crops", ".")
    assert done.exit_code == 2
    assert f"--crops {crop.name} would overwrite another file of the run" in done.stderr
    assert crop.read_bytes() == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--classes", "dgo"], "unknown class 'dgo'; did you mean dog?"),
        (["--classes", ""], "classes is empty; name at least one class"),
        (["--classes", "dog,"], "class 2 of 2 is empty; name it, or remove its comma"),
        (["--classes", '"dog'], "cannot read the list of classes"),
        (["4294967296", "--json", "r.json"], "4294967296 is not the number of a camera"),
        (["rtsp://[::1"], "a rtsp:// address has a malformed host"),
        (["--iou", "0.5"], "no IoU threshold; leave out --iou"),
        (["--iou", "2"], "2.0 is not in the range 0<=x<=1"),
        (["--every", "2"], "--every is for videos, and there is none"),
        (["--crops", "x", "--out", "x"], "--out and --crops are the same folder x"),
        (["--crops", "a.png"], "a.png is a file; name a folder"),
        (["sub/clip.mp4", "clip.mp4", "--json", "r.json"], "would both be image 'clip.mp4' in the JSON file"),
        (["clip.mp4", "--out", "."], "would overwrite"),
    ],
)
def test_wrong_usage(model_file: Path, folder: Path, words: list[str], message: str) -> None:
    done = detect(model_file, "a.png", *words)
    assert (done.exit_code, done.stdout) == (2, "")
    assert message in done.stderr


def test_without_opencv(model_file: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    done = detect(model_file, "clip.mp4")
    assert done.exit_code == 2
    assert "videos, cameras and streams need OpenCV" in done.stderr
    assert "pip install '.[video]'" in done.stderr
    assert detect(model_file, "a.png").exit_code == 0  # negative control: images need none
