"""What is read, and where pictures go."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from effdet_torch.errors import OverwriteError, UsageError
from effdet_torch.inference.files.find import Sources, VideoSource, find_sources, require_unique_ids
from effdet_torch.inference.files.pictures import cropped, save_pictures
from effdet_torch.inference.files.places import Outputs, Places, planned
from effdet_torch.inference.images import read_image
from effdet_torch.inference.results.image_detections import ImageDetections

STREAM = "rtsp://user:secret@host:554/live?token=1"


def found(names: list[str], boxes: list[list[float]]) -> ImageDetections:
    return ImageDetections(np.float32(boxes), np.ones(len(names), np.float32), np.arange(len(names)), names)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("a.jpg", "clip.mp4", "sub/b.PNG", "sub/.hidden/h.png", "sub/deep/c.webp", "sub/deep/d.mkv"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "sub" / "loop").symlink_to("..")
    return tmp_path


def test_images_videos_cameras_and_streams(folder: Path) -> None:
    sources = find_sources(["a.jpg", "0", "sub/*/d.*", "clip.mp4", STREAM, "https://host/x.m3u8"])
    assert sources.images == [Path("a.jpg")]
    assert sources.videos == [
        VideoSource("sub/deep/d.mkv", "sub/deep/d.mkv", Path("sub/deep/d.mkv")),
        VideoSource("clip.mp4", "clip.mp4", Path("clip.mp4")),
        VideoSource(0, "camera 0"),
        VideoSource(STREAM, "rtsp://host:554/live"),
        VideoSource("https://host/x.m3u8", "https://host/x.m3u8"),
    ]
    assert sources.files == [Path("a.jpg"), Path("sub/deep/d.mkv"), Path("clip.mp4")]
    (folder / "0").touch()
    assert find_sources(["0"]).images == [Path("0")]  # a file comes first
    for url in ("https://user:secret@host/x.jpg", "ftp://host/x.mp4"):
        with pytest.raises(UsageError, match="is a URL; download it first") as error:
            find_sources([url])
        assert "secret" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("missing", "pass files, folders of images"),
        ("videos", r"there are videos \(\.mp4\): name them themselves"),
        ("outer", "there are some in the folders below: pass --recursive"),
    ],
)
def test_what_to_pass_where_no_image_is_found(folder: Path, name: str, advice: str) -> None:
    for file in ("videos/a.mp4", "outer/inner/a.jpg"):
        (folder / file).parent.mkdir(parents=True)
        (folder / file).touch()
    with pytest.raises(UsageError, match=f"no image found: {name}; {advice}"):
        find_sources([name])
    assert find_sources(["outer"], recursive=True).images == [Path("outer/inner/a.jpg")]  # negative control


@pytest.mark.parametrize(
    "address",
    ["rtsp://u:secret@[::1", "http://u:secret@[x/a.mp4", "ftp://u:secret@[::1/a", "rtsp://u:secret@h\u2100/x"],
)
def test_a_malformed_address(address: str) -> None:
    with pytest.raises(UsageError, match=r"a (rtsp|http|ftp):// address has a malformed host") as error:
        find_sources(["0", address])
    assert "secret" not in str(error.value)
    assert find_sources(["rtsp://u:secret@[::1]/x"]).videos[0].name == "rtsp://[::1]/x"  # negative control


@pytest.mark.parametrize("number", [1 << 31, 1 << 32, 10**100])
def test_a_number_that_is_too_high_for_a_camera(folder: Path, number: int) -> None:
    with pytest.raises(UsageError, match=f"{number} is not the number of a camera, nor a file; expected 0, 1, 2"):
        find_sources(["a.jpg", str(number)])
    assert find_sources([str((1 << 31) - 1)]).videos[0].address == (1 << 31) - 1  # negative control
    (folder / str(number)).touch()
    assert find_sources([str(number)]).images == [Path(str(number))]


def test_a_folder_means_its_images_and_those_below_if_asked(folder: Path) -> None:
    assert find_sources(["."]) == Sources([Path("a.jpg")], [])
    assert find_sources(["."], recursive=True).images == [Path("a.jpg"), Path("sub/b.PNG"), Path("sub/deep/c.webp")]
    assert find_sources(["sub"], recursive=True).images == [Path("sub/b.PNG"), Path("sub/deep/c.webp")]


def test_ids_that_would_be_the_same(folder: Path) -> None:
    sources = find_sources(["clip.mp4", "0"])
    require_unique_ids(sources)
    other = VideoSource("sub/clip.mp4", "sub/clip.mp4", Path("sub/clip.mp4"))
    with pytest.raises(UsageError, match=r"clip\.mp4 and sub/clip\.mp4 would both be image 'clip\.mp4'"):
        require_unique_ids(Sources([], [*sources.videos, other]))


def test_places_of_drawings_and_crops(folder: Path) -> None:
    sources = find_sources(["a.jpg", "sub/deep/c.webp", "sub/deep/d.mkv", "clip.mp4", "0", STREAM])
    images, videos = planned(sources, Outputs(Path("out"), Path("crops")))
    assert images == [
        Places(Path("out/a.jpg"), Path("crops/a"), ".jpg"),
        Places(Path("out/sub/deep/c.webp.png"), Path("crops/sub/deep/c.webp"), ".png"),
    ]
    names = ["sub/deep/d.mkv", "clip", "camera-0", "rtsp-host-554-live"]
    assert [place.drawing for place in videos] == [Path(f"out/{name}.mp4") for name in names]
    assert [place.crops for place in videos] == [Path("crops") / name for name in names]
    assert planned(sources, Outputs())[0] == [Places(crop_suffix=".jpg"), Places(crop_suffix=".png")]


def test_what_would_overwrite_something(folder: Path) -> None:
    (folder / "camera-0.mp4").touch()
    for names, outputs, message in (
        (["clip.mp4", "a.jpg"], Outputs(Path()), "the drawing (a.jpg|clip.mp4) would overwrite"),
        (["camera-0.mp4", "0"], Outputs(Path("out")), r"would overwrite the drawing"),
        (["rtsp://h/a-b", "rtsp://h/a/b"], Outputs(Path("out")), r"would overwrite the drawing of rtsp://h/a-b"),
    ):
        with pytest.raises(OverwriteError, match=message):
            planned(find_sources(names), outputs)
    with pytest.raises(UsageError, match="--out and --crops are the same folder"):
        Outputs(Path("new"), folder / "new")


def test_crops_of_two_images_never_share_a_name() -> None:
    stems, classes = ("a", "a_x", "a_x_1"), ("x", "x_1", "y", "x y", "../../etc/passwd", "", "猫", "a" * 300, "..")
    paths = [path for stem in stems for path in Places(crops=Path("crops") / stem).crop_paths(classes)]
    assert len(set(paths)) == len(paths) == len(stems) * len(classes)
    assert {path.parent for path in paths} == {Path("crops")}
    assert [path.name for path in paths[:7]] == [
        "a_x_1.jpg", "a_x-1_2.jpg", "a_y_3.jpg", "a_x-y_4.jpg", "a_etc-passwd_5.jpg", "a_class_6.jpg", "a_猫_7.jpg"
    ]  # fmt: skip
    assert max(len(path.name) for path in paths) < 80
    same = [Path("a.jpg"), Path("a.png")]
    crops = [place.crops for place in planned(Sources(same, []), Outputs(crops=Path("c")))[0]]
    assert crops == [Path("c/a.jpg"), Path("c/a.png")]


def test_a_crop_is_what_its_box_touches(tmp_path: Path) -> None:
    pixels = np.arange(20 * 30 * 3, dtype=np.uint8).reshape(20, 30, 3)
    for box, rows, columns in (
        ([2.0, 3.0, 5.0, 7.0], (3, 7), (2, 5)),
        ([2.6, 3.9, 5.1, 7.5], (3, 8), (2, 6)),
        ([-9.0, -9.0, 4.0, 99.0], (0, 20), (0, 4)),
    ):
        np.testing.assert_array_equal(cropped(pixels, box), pixels[slice(*rows), slice(*columns)])
    for beside in ([31.0, 0.0, 40.0, 9.0], [float("nan")] * 4):
        assert cropped(pixels, beside).size == 0
    place = Places(crops=tmp_path / "a", crop_suffix=".png")
    save_pictures(pixels, found(["cat", "dog", "cat"], [[2, 3, 5, 7], [31, 0, 40, 9], [0, 0, 9, 9]]), place, ())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a_cat_1.png", "a_cat_3.png"]
    np.testing.assert_array_equal(read_image(tmp_path / "a_cat_1.png"), pixels[3:7, 2:5])
    with pytest.raises(OverwriteError, match=r"--crops .*a_cat_1\.png would overwrite another file of the run"):
        save_pictures(pixels, found(["cat"], [[0, 0, 9, 9]]), place, {tmp_path / "a_cat_1.png"})
