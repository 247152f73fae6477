"""`effdet-detect` as its users run it."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image

import cli
from converter.conversion import convert_checkpoint, prepare
from converter.locate import open_checkpoint
from effdet_torch import create_model
from effdet_torch.errors import UsageError
from effdet_torch.inference.detect_files import drawing_paths, find_images, image_id
from effdet_torch.inference.images import read_image
from support.commands import run

Done = subprocess.CompletedProcess[str]
BROKEN = b"not a picture"


@pytest.fixture(scope="module")
def trained(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the trained model and photographs in two folders."""
    folder = tmp_path_factory.mktemp("detect")
    with open_checkpoint(shared / "trained_d0_256") as source:
        convert_checkpoint(prepare(source), folder / "d0.pth")
    for subfolder, ids in {"photos": (6818, 37777), "more/deep": (403385,)}.items():
        (folder / subfolder).mkdir(parents=True)
        for number in ids:
            name = f"{number:012d}.jpg"
            shutil.copy(shared / "coco50" / "val2017" / name, folder / subfolder / name)
    (folder / "photos" / "broken.jpg").write_bytes(BROKEN)
    (folder / "photos" / "notes.txt").write_text("no image, and in a folder nobody expects one to be")
    return folder


@pytest.fixture(scope="module")
def done(trained: Path) -> Done:
    arguments = ["d0.pth", "photos", "more/**/*.jpg", "--out", "drawn/here", "--json", "found.json", "--score", "0.5"]
    return run("effdet-detect", *arguments, cwd=trained)


def test_every_image_is_reported(done: Done) -> None:
    assert done.returncode == 1, done.stderr
    first, second, third = done.stdout.splitlines()
    assert first == "photos/000000006818.jpg: 1 detection (toilet 1)"
    assert second.startswith("photos/000000037777.jpg: 13 detections (oven 1, chair 3, orange 4")
    assert third.startswith("more/deep/000000403385.jpg: 2 detections (")


def test_an_unreadable_image_is_reported_and_left_out(done: Done) -> None:
    assert done.stderr.splitlines() == [
        "Error: photos/broken.jpg is not an image, or of a format that Pillow cannot read; "
        "expected JPEG, PNG or the like."
    ]


def test_the_results_are_those_of_the_official_code(done: Done, trained: Path, shared: Path) -> None:
    assert done.returncode == 1
    found = json.loads((trained / "found.json").read_text())
    path = shared / "trained_d0_256" / "detections" / "det_ema_pil_global_gaussian.json"
    official = [
        entry
        for entry in json.loads(path.read_text())
        if entry["image_id"] in (6818, 37777, 403385) and entry["score"] >= 0.5
    ]
    assert [e["image_id"] for e in found] == [6818] + [37777] * 13 + [403385] * 2
    assert [e["category_id"] for e in found] == [e["category_id"] for e in official]
    np.testing.assert_allclose([e["bbox"] for e in found], [e["bbox"] for e in official], atol=0.5)
    np.testing.assert_allclose([e["score"] for e in found], [e["score"] for e in official], atol=1e-3)


def test_boxes_are_drawn_on_copies(done: Done, trained: Path, shared: Path) -> None:
    assert done.returncode == 1
    drawn = sorted(path.relative_to(trained / "drawn" / "here").as_posix() for path in (trained / "drawn").rglob("*.*"))
    assert drawn == ["more/deep/000000403385.jpg", "photos/000000006818.jpg", "photos/000000037777.jpg"]
    original, picture = (
        read_image(trained / folder / "photos" / "000000006818.jpg").astype(int) for folder in (".", "drawn/here")
    )
    assert original.shape == picture.shape
    changed = np.abs(original - picture).max(axis=2) > 60
    ys, xs = np.nonzero(changed)
    # The toilet and its label, and nothing else.
    assert (xs.min(), xs.max(), ys.max()) == pytest.approx((187, 287, 529), abs=2)
    assert not changed[:440].any()
    source = (shared / "coco50" / "val2017" / "000000006818.jpg").read_bytes()
    assert (trained / "photos" / "000000006818.jpg").read_bytes() == source


# The rest runs in this process, on a small untrained network.


@pytest.fixture(scope="module")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    model = create_model("d0", num_classes=3, image_size=128)
    content = io.BytesIO()
    torch.save({"state_dict": model.state_dict(), "metadata": {"config": model.config.to_dict()}}, content)
    path = tmp_path_factory.mktemp("model") / "small.pth"
    path.write_bytes(content.getvalue())
    return path


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder with two noisy images."""
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    for name in ("a.png", "b.bmp"):
        Image.fromarray(random.integers(0, 256, (40, 60, 3), dtype=np.uint8)).save(tmp_path / name)
    return tmp_path


def detect(*arguments: object) -> Result:
    return CliRunner().invoke(cli.detect, [str(argument) for argument in arguments])


def test_all_well(model_file: Path, folder: Path) -> None:
    done = detect(model_file, "a.png", "b.bmp", "--score", 0, "--json", "r.json", "--batch", 1, "--device", "cpu")
    assert (done.exit_code, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert [line.split(":")[0] for line in lines] == ["a.png", "b.bmp"]
    assert all("100 detections (class " in line for line in lines)
    found = json.loads((folder / "r.json").read_text())
    assert [entry["image_id"] for entry in found] == ["a.png"] * 100 + ["b.bmp"] * 100


def test_nothing_found(model_file: Path, folder: Path) -> None:
    done = detect(model_file, "a.png", "--json", "r.json", "--score", 1)
    assert (done.exit_code, done.stdout) == (0, "a.png: 0 detections\n")
    assert json.loads((folder / "r.json").read_text()) == []


def test_own_class_names(model_file: Path, folder: Path) -> None:
    (folder / "names.txt").write_text("cat\ndog\nbird\n")
    done = detect(model_file, "a.png", "--score", 0, "--labels", "names.txt")
    assert "class" not in done.stdout
    assert any(name in done.stdout for name in ("cat", "dog", "bird"))


def test_pictures_that_are_not_jpeg_are_drawn_as_png(model_file: Path, folder: Path) -> None:
    assert detect(model_file, ".", "--out", "drawn", "--score", 0).exit_code == 0
    assert sorted(path.name for path in (folder / "drawn").iterdir()) == ["a.png", "b.bmp.png"]
    with Image.open(folder / "drawn" / "b.bmp.png") as picture:
        assert picture.format == "PNG"


def test_exif_orientation_can_be_ignored(model_file: Path, folder: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(read_image(folder / "a.png")).save(folder / "turned.png", exif=exif)
    for option, shape in (("--exif", (60, 40, 3)), ("--no-exif", (40, 60, 3))):
        assert detect(model_file, "turned.png", "--out", "drawn", option).exit_code == 0
        assert read_image(folder / "drawn" / "turned.png").shape == shape


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing/*.jpg"], "no image found: nothing/*.jpg"),
        (["missing.jpg", "empty"], "no image found: missing.jpg, empty"),
        (["a.png", "--profile", "fast"], "unknown postprocessing profile 'fast'"),
        (["a.png", "--device", "toaster"], "the device 'toaster' cannot be used"),
        (["a.png", "--score", "30"], "30.0 is not in the range 0<=x<=1"),
        (["a.png", "--batch", "0"], "0 is not in the range x>=1"),
        (["a.png", "--labels", "missing.txt"], "'missing.txt' does not exist"),
        (["a.png", "--json", "nowhere/r.json"], "the folder nowhere does not exist"),
        (["a.png", "--out", "."], "drawing would replace them"),
        ([], "Missing argument 'IMAGES"),
    ],
)
def test_wrong_usage(model_file: Path, folder: Path, arguments: list[str], message: str) -> None:
    (folder / "empty").mkdir()
    before = (folder / "a.png").read_bytes()
    done = detect(model_file, *arguments)
    assert (done.exit_code, done.stdout) == (2, "")
    assert message in done.stderr
    assert (folder / "a.png").read_bytes() == before


def test_a_missing_image_among_others_is_reported(model_file: Path, folder: Path) -> None:
    done = detect(model_file, "missing.jpg", "nothing*.jpg", "a.png", "--json", "r.json", "--score", 0)
    assert done.exit_code == 1
    assert done.stdout.startswith("a.png: 100 detections")
    assert [line.split(":")[1] for line in done.stderr.splitlines()] == [
        " cannot read the image missing.jpg",
        " cannot read the image nothing*.jpg",
    ]
    assert len(json.loads((folder / "r.json").read_text())) == 100


def test_a_failed_run_keeps_the_earlier_results(model_file: Path, folder: Path) -> None:
    (folder / "r.json").write_text("earlier")
    model_file.with_name("damaged.pth").write_bytes(model_file.read_bytes()[:1000])
    done = detect(model_file.with_name("damaged.pth"), "a.png", "--json", "r.json")
    assert done.exit_code == 1
    assert "is truncated" in done.stderr
    assert (folder / "r.json").read_text() == "earlier"


def test_images_that_the_json_could_not_tell_apart(model_file: Path, folder: Path) -> None:
    (folder / "more").mkdir()
    shutil.copy(folder / "a.png", folder / "more" / "a.png")
    done = detect(model_file, "a.png", "more", "--json", "r.json")
    assert done.exit_code == 2
    assert "a.png and more/a.png would both be image 'a.png'" in done.stderr
    assert detect(model_file, "a.png", "more").exit_code == 0


def test_a_drawing_that_cannot_be_written(model_file: Path, folder: Path) -> None:
    (folder / "drawn" / "a.png").mkdir(parents=True)
    done = detect(model_file, "a.png", "--out", "drawn")
    assert done.exit_code == 1
    assert "drawn/a.png cannot be written: Is a directory" in done.stderr
    assert list((folder / "drawn").iterdir()) == [folder / "drawn" / "a.png"]  # no partial file


# Which files are meant


def test_image_ids() -> None:
    assert image_id(Path("val2017/000000037777.jpg")) == 37777
    assert image_id(Path("COCO_val2014_000000000042.jpg")) == 42
    assert image_id(Path("37777.jpg")) == "37777.jpg"
    assert image_id(Path("0000000377770.jpg")) == "0000000377770.jpg"
    assert image_id(Path("x/photo.png")) == "photo.png"


def test_folders_patterns_and_files(folder: Path) -> None:
    (folder / "sub" / "deep").mkdir(parents=True)
    for name in ("sub/C.JPG", "sub/notes.txt", "sub/deep/d.webp", "sub/[1].png"):
        (folder / name).touch()
    assert find_images(["."]) == [Path("a.png"), Path("b.bmp")]
    assert find_images(["sub"]) == [Path("sub/C.JPG"), Path("sub/[1].png")]
    assert find_images(["sub/[1].png"]) == [Path("sub/[1].png")]
    assert find_images(["sub/*"]) == [
        Path("sub/C.JPG"), Path("sub/[1].png"), Path("sub/deep/d.webp"), Path("sub/notes.txt")
    ]  # fmt: skip
    assert find_images(["**/*.webp", str(folder / "s*" / "C*")]) == [Path("sub/deep/d.webp"), folder / "sub" / "C.JPG"]
    assert find_images(["b.bmp", "*.?m?", "b.bmp"]) == [Path("b.bmp")]


def test_drawings_lie_as_the_images_do(folder: Path) -> None:
    out = folder / "out"
    assert drawing_paths([Path("x/1.jpg"), Path("x/y/1.jpg")], out) == [out / "1.jpg", out / "y" / "1.jpg"]
    assert drawing_paths([Path("x/../x/1.tif")], out) == [out / "1.tif.png"]
    with pytest.raises(UsageError, match="choose another folder"):
        drawing_paths([Path("a.png"), Path("b.bmp")], folder)
