"""`effdet-detect` as its users run it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image
from pycocotools.coco import COCO

import cli
from effdet_torch.errors import UsageError
from effdet_torch.inference.files import pictures
from effdet_torch.inference.files.find import Sources, find_sources, image_id, left_out
from effdet_torch.inference.files.places import Outputs, planned
from effdet_torch.inference.images import read_image
from support.coco_samples import annotation_file, convert_trained, write_coco, write_model
from support.commands import run
from verify.detections.results_file import read_results

Done = subprocess.CompletedProcess[str]


@pytest.fixture(scope="module")
def trained(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the trained model and photographs in two folders."""
    folder = tmp_path_factory.mktemp("detect")
    convert_trained(shared, folder / "d0.pth")
    for path in ("photos/000000006818.jpg", "photos/000000037777.jpg", "more/deep/000000403385.jpg"):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(shared / "coco50" / "val2017" / Path(path).name, folder / path)
    (folder / "photos" / "broken.jpg").write_bytes(b"not a picture")
    (folder / "photos" / "notes.txt").write_text("not an image, in a folder of images")
    return folder


@pytest.fixture(scope="module")
def done(trained: Path) -> Done:
    arguments = ["d0.pth", "photos", "more/**/*.jpg", "-o", "drawn/here", "--json", "found.json", "--score", "0.5"]
    return run("effdet-detect", *arguments, cwd=trained)


def test_every_image_is_reported_and_an_unreadable_one_is_left_out(done: Done, trained: Path) -> None:
    assert done.returncode == 1, done.stderr
    first, second, third = done.stdout.splitlines()
    assert first == "photos/000000006818.jpg: 1 toilet"
    assert second.startswith("photos/000000037777.jpg: 1 oven, 3 chairs, 4 oranges")
    assert third.startswith("more/deep/000000403385.jpg: 1 ")
    assert done.stderr == (
        "left out: files in folders whose suffix is not that of an image (.txt 1)\n"
        "Error: photos/broken.jpg is not an image, or its format is not supported; "
        "expected JPEG, PNG or another that Pillow reads.\n"
    )
    found = json.loads((trained / "found.json").read_text())
    assert [entry["image_id"] for entry in found] == [6818] + [37777] * 13 + [403385] * 2
    assert found[0] | {"score": 0} == {
        "image_id": 6818,
        "category_id": 70,
        "category_name": "toilet",
        "bbox": pytest.approx([187.5, 472.1, 99.6, 57.1], abs=0.5),
        "score": 0,
    }


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
    return write_model(tmp_path_factory.mktemp("model") / "small.pth", num_classes=3, max_level=7)


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


def test_results_and_class_names(model_file: Path, folder: Path) -> None:
    (folder / "names.txt").write_text("cat\ndog\nbird\n")
    done = detect(model_file, "a.png", "b.bmp", "--score", 0, "--json", "r.json", "--batch", 1, "--device", "cpu")
    assert (done.exit_code, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert [line.split(":")[0] for line in lines] == ["a.png", "b.bmp"]
    assert all(sum(map(int, re.findall(r"(\d+) x class \d", line))) == 100 for line in lines)
    found = json.loads((folder / "r.json").read_text())
    assert [entry["image_id"] for entry in found] == ["a.png"] * 100 + ["b.bmp"] * 100
    named = detect(model_file, "a.png", "--score", 0, "--labels", "names.txt").stdout
    assert "class" not in named
    assert any(name in named for name in ("cats", "dogs", "birds"))
    done = detect(model_file, "a.png", "--json", "r.json", "--score", 1)
    assert (done.exit_code, done.stdout) == (0, "a.png: no detections\n")
    assert json.loads((folder / "r.json").read_text()) == []


def test_readers_of_cocos_format_leave_out_the_names(
    model_file: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_coco(folder / "coco")
    assert detect(model_file, "coco/val2017", "--score", 0, "--json", "r.json").exit_code == 0
    entries = json.loads((folder / "r.json").read_text())
    assert all(entry.pop("category_name") == f"class {entry['category_id']}" for entry in entries)
    assert read_results(folder / "r.json") == entries
    loaded = COCO(annotation_file(folder / "coco")).loadRes("r.json")
    capsys.readouterr()  # pycocotools prints
    assert [entry["score"] for entry in loaded.loadAnns(loaded.getAnnIds())] == [entry["score"] for entry in entries]


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
        (
            ["a.png", "--device", "toaster"],
            "the device 'toaster' cannot be used: it does not exist; expected cpu, cuda,",
        ),
        (["a.png", "https://example.com/b.png"], "https://example.com/b.png is a URL; download it first"),
        (["a.png", "--json", "r.csv"], "r.csv ends in .csv, but what is written is JSON; name it r.json"),
        (["a.png", "--out", "-"], "- is stdout; name a folder"),
        (["a.png", "--out", "a.png"], "a.png is a file; name a folder"),
        (["a.png", "--labels", "empty"], "empty is a folder; name a file"),
        (["a.png", "--score", "30"], "30.0 is not in the range 0<=x<=1"),
        (["a.png", "--batch", "0"], "0 is not in the range x>=1"),
        (
            ["a.png", "--labels", "missing.txt"],
            "cannot read the class names in missing.txt: No such file or directory; check its name and folder",
        ),
        (["a.png", "--labels", "two.pbtxt"], "has 2 names for the categories 1 to 2, and the model has 3 classes"),
        (["a.png", "--json", "nowhere/r.json"], "the folder nowhere does not exist"),
        (["a.png", "--out", "."], "a.png would overwrite a.png, which is read; choose another name or folder"),
        (["a.png", "empty/a.png", "--json", "r.json"], "a.png and empty/a.png would both be image 'a.png'"),
        ([], "Missing argument 'SOURCES"),
    ],
)
def test_wrong_usage(model_file: Path, folder: Path, arguments: list[str], message: str) -> None:
    (folder / "two.pbtxt").write_text("item { id: 1 name: 'cat' } item { id: 2 name: 'dog' }")
    (folder / "empty").mkdir()
    before = (folder / "a.png").read_bytes()
    done = detect(model_file, *arguments)
    assert (done.exit_code, done.stdout) == (2, "")
    assert message in done.stderr
    assert (folder / "a.png").read_bytes() == before


def test_swapped_arguments(model_file: Path, folder: Path) -> None:
    for model in ("a.png", "."):
        done = detect(folder / model, model_file)
        assert (done.exit_code, "did you swap MODEL and SOURCES?" in done.stderr) == (2, True)
    done = detect(model_file, "a.png", model_file)  # negative control
    assert (done.exit_code, "swap" in done.stderr) == (1, False)


def test_any_other_suffix_takes_json(model_file: Path, folder: Path) -> None:
    assert detect(model_file, "a.png", "--json", "r.txt").exit_code == 0
    assert isinstance(json.loads((folder / "r.txt").read_text()), list)


def test_verbose_with_stdout_names_no_device(model_file: Path, folder: Path) -> None:
    done = detect(model_file, "a.png", "--json", "-", "-v")
    assert ("wrote to stdout" in done.stderr, "/dev/stdout" in done.stderr) == (True, False)


def test_a_missing_image_among_others_is_reported(model_file: Path, folder: Path) -> None:
    done = detect(model_file, "missing.jpg", "nothing*.jpg", "a.png", "--json", "r.json", "--score", 0)
    assert done.exit_code == 1
    assert " x class " in done.stdout
    assert [line.split(":")[1] for line in done.stderr.splitlines()] == [
        " cannot read the image missing.jpg",
        " cannot read the image nothing*.jpg",
    ]
    assert len(json.loads((folder / "r.json").read_text())) == 100


def test_a_failed_run_keeps_the_earlier_results_and_leaves_no_partial_file(model_file: Path, folder: Path) -> None:
    (folder / "r.json").write_text("earlier")
    damaged = folder / "damaged.pth"
    damaged.write_bytes(model_file.read_bytes()[:1000])
    (folder / "drawn" / "a.png").mkdir(parents=True)
    for model, message in (
        (damaged, "is truncated"),
        (model_file, "drawn/a.png cannot be written: Is a directory; nothing was changed"),
    ):
        done = detect(model, "a.png", "--json", "r.json", "--out", "drawn")
        assert (done.exit_code, message in done.stderr) == (1, True)
        assert (folder / "r.json").read_text() == "earlier"
    assert list((folder / "drawn").iterdir()) == [folder / "drawn" / "a.png"]
    (folder / "file").touch()
    done = detect(model_file, "a.png", "--out", "file/drawn")
    assert (done.exit_code, "file/drawn/a.png cannot be written: Not a directory" in done.stderr) == (1, True)


# Which files are meant


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("val2017/000000037777.jpg", 37777),
        ("COCO_val2014_000000000042.jpg", 42),
        ("37777.jpg", "37777.jpg"),
        ("0000000377770.jpg", "0000000377770.jpg"),
        ("x/photo.png", "photo.png"),
    ],
)
def test_image_ids(path: str, expected: int | str) -> None:
    assert image_id(Path(path)) == expected


def test_folders_patterns_and_files(folder: Path) -> None:
    (folder / "sub" / "deep").mkdir(parents=True)
    for name in ("sub/C.JPG", "sub/notes.txt", "sub/deep/d.webp", "sub/[1].png"):
        (folder / name).touch()
    assert find_sources(["."]).images == [Path("a.png"), Path("b.bmp")]
    assert find_sources(["sub"]).images == [Path("sub/C.JPG"), Path("sub/[1].png")]
    assert find_sources(["sub/[1].png"]).images == [Path("sub/[1].png")]
    assert find_sources(["sub/*"]).images == [
        Path("sub/C.JPG"), Path("sub/[1].png"), Path("sub/deep/d.webp"), Path("sub/notes.txt")
    ]  # fmt: skip
    assert find_sources(["**/*.webp", str(folder / "s*" / "C*")]).images == [
        Path("sub/deep/d.webp"),
        folder / "sub" / "C.JPG",
    ]
    assert find_sources(["b.bmp", "*.?m?", "b.bmp"]).images == [Path("b.bmp")]


def test_newer_suffixes_and_what_is_left_out_of_folders(folder: Path) -> None:
    (folder / "new").mkdir()
    for name in ("a.JFIF", "b.avif", "c.jp2", "d.heic", "e.heic", "README", ".DS_Store"):
        (folder / "new" / name).touch()
    (folder / "new" / "deep.heic").mkdir()
    assert find_sources(["new"]).images == [Path("new/a.JFIF"), Path("new/b.avif"), Path("new/c.jp2")]
    assert left_out(["new", "new", "n*"]) == {".heic": 2, "": 1}
    assert left_out(["new/d.heic", "a.png"]) == left_out(["."]) == {}  # negative control: they are not left out


@pytest.mark.timeout(60)
def test_patterns_do_not_follow_links_in_circles(folder: Path) -> None:
    for number in range(12):
        (folder / f"up{number}").symlink_to(".")
    (folder / "up0.jpg").symlink_to("up0.jpg")
    (folder / ".hidden").mkdir()
    (folder / ".hidden" / "h.png").touch()
    assert find_sources(["**/*.png"]).images == [Path("a.png")]
    assert find_sources([".h*/*.png"]).images == [Path(".hidden/h.png")]
    with pytest.raises(UsageError, match=r"\*\*b is not a pattern: "):
        find_sources(["a**b"])


def test_an_image_that_links_to_itself_is_reported(model_file: Path, folder: Path) -> None:
    (folder / "loop.png").symlink_to("loop.png")
    done = detect(model_file, "loop.png", "a.png", "--out", "drawn")
    assert (done.exit_code, done.stdout.partition(":")[0]) == (1, "a.png")
    assert done.stderr == "Error: cannot read the image loop.png: Too many levels of symbolic links.\n"


def test_an_image_that_cannot_be_reached_is_reported_and_the_others_are_done(model_file: Path, folder: Path) -> None:
    name = f"{'a' * 300}.png"
    done = detect(model_file, name, "a.png", "--batch", str(10**30))
    assert (done.exit_code, done.stdout.partition(":")[0]) == (1, "a.png")
    assert done.stderr == f"Error: cannot read the image {name}: File name too long.\n"
    done = detect(model_file, name)  # it is not taken for absent, which would be wrong usage
    assert (done.exit_code, done.stderr) == (1, f"Error: cannot read the image {name}: File name too long.\n")
    os.mkfifo(folder / "pipe.png")  # nor is one in a folder left out without a word
    done = detect(model_file, ".")
    assert (done.exit_code, len(done.stdout.splitlines())) == (1, 2)
    assert done.stderr.startswith("Error: cannot read the image pipe.png: it is a pipe or a device")


def drawing_paths(paths: list[Path], folder: Path) -> list[Path | None]:
    return [place.drawing for place in planned(Sources(paths, []), Outputs(folder))[0]]


def test_no_drawing_takes_the_place_of_another(folder: Path) -> None:
    out, paths = folder / "out", [Path(f"x/{name}") for name in ("a.webp", "a.webp.png", "a.webp.png.png", "b.webp")]
    names = ["a.webp.png.png.png", "a.webp.png", "a.webp.png.png", "b.webp.png"]
    assert drawing_paths(paths, out) == [out / name for name in names]
    assert drawing_paths([*paths, Path("x/../x/a.webp")], out) == [out / name for name in (*names, names[0])]


def test_drawings_lie_as_the_images_do(folder: Path) -> None:
    out = folder / "out"
    assert drawing_paths([Path("x/1.jpg"), Path("x/y/1.jpg")], out) == [out / "1.jpg", out / "y" / "1.jpg"]
    assert drawing_paths([Path("x/../x/1.tif")], out) == [out / "1.tif.png"]
    out.mkdir()
    (out / "a.png").hardlink_to("a.png")
    for taken in (folder, out):
        with pytest.raises(UsageError, match=r"the drawing .*a\.png would overwrite a\.png"):
            drawing_paths([Path("a.png"), Path("b.bmp")], taken)


# What an interrupted run keeps.


WORDS = ("--score", 0, "--json", "r.json", "--out", "drawn", "--device", "cpu")


@pytest.fixture
def interrupted(model_file: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run on two images and a damaged one, stopped after the first one; the folder that it leaves."""
    (folder / "c.jpg").write_text("not an image")
    save, saved = pictures.save_picture, list[Path]()

    def stop_at_the_second(picture: Image.Image, path: Path) -> None:
        if saved:
            raise KeyboardInterrupt
        saved.append(path)
        save(picture, path)

    with monkeypatch.context() as patch:
        patch.setattr(pictures, "save_picture", stop_at_the_second)
        assert detect(model_file, ".", *WORDS).exit_code == 1
    assert (folder / "r.json.partial").is_file()
    assert not (folder / "r.json").exists()
    return folder


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_an_interrupted_run_is_resumed(model_file: Path, interrupted: Path, tmp_path: Path) -> None:
    first = (interrupted / "drawn" / "a.png").stat().st_ino
    resumed = detect(model_file, ".", *WORDS)
    assert (interrupted / "drawn" / "a.png").stat().st_ino == first  # it was not drawn again
    found = files(interrupted)
    assert found.keys() == {"a.png", "b.bmp", "c.jpg", "r.json", "drawn/a.png", "drawn/b.bmp.png"}
    whole = detect(model_file, ".", *WORDS)
    assert files(interrupted) == found
    left_out, note, *errors = resumed.stderr.splitlines()
    assert left_out == "left out: files in folders whose suffix is not that of an image (.partial 1)"
    assert note == "resuming an interrupted run of r.json; 1 of 3 images are kept"
    assert (resumed.exit_code, resumed.stdout, errors) == (1, whole.stdout, whole.stderr.splitlines()[1:])
    assert (len(whole.stdout.splitlines()), len(errors)) == (2, 1)


def test_what_is_done_is_not_done_again(model_file: Path, interrupted: Path) -> None:
    """Negative control of the one above: what the partial file says is believed."""
    partial = interrupted / "r.json.partial"
    header, line = partial.read_text().splitlines()
    partial.write_text(f"{header}\n{json.dumps(json.loads(line) | {'detections': []})}\n")
    done = detect(model_file, ".", *WORDS)
    assert done.stdout.startswith("a.png: no detections\n")
    assert {entry["image_id"] for entry in json.loads((interrupted / "r.json").read_text())} == {"b.bmp"}


@pytest.mark.parametrize("change", ["picture", "image"])
def test_what_is_missing_or_another_image_is_done_again(model_file: Path, interrupted: Path, change: str) -> None:
    if change == "picture":
        (interrupted / "drawn" / "a.png").unlink()
    else:
        shutil.copy("b.bmp", "a.png")
    assert detect(model_file, ".", *WORDS).exit_code == 1
    found = files(interrupted)
    detect(model_file, ".", *WORDS)
    assert files(interrupted) == found
    assert (read_image(interrupted / "drawn" / "a.png") == read_image(interrupted / "drawn" / "b.bmp.png")).all() == (
        change == "image"
    )


@pytest.mark.parametrize(
    ("words", "different"),
    [
        (["--score", 0.1], "score"),
        (["--profile", "serving-hard"], "profile"),
        (["--no-exif"], "exif"),
        (["--out", "elsewhere"], "out"),
        (["--labels", "names.txt"], "labels"),
        (["--classes", "1"], "classes"),
        (["--max-detections", 7], "profile"),
        (["--profile", "serving-hard", "--iou", 0.4], "profile"),
        (["--crops", "crops"], "crops"),
    ],
)
def test_a_run_with_other_settings_is_refused(
    model_file: Path, interrupted: Path, words: list[object], different: str
) -> None:
    (interrupted / "names.txt").write_text("cat\ndog\nbird\n")
    before = files(interrupted)
    done = detect(model_file, ".", *WORDS, *words)
    assert (done.exit_code, done.stdout) == (1, "")
    assert f"r.json.partial holds the results of an interrupted run with another {different}. Delete it" in done.stderr
    assert files(interrupted) == before


def test_quiet_and_verbose(trained: Path) -> None:
    words = ["d0.pth", "photos", "--json", "-", "--score", "0.5"]
    done = run("effdet-detect", *words, "-q", cwd=trained)
    assert done.returncode == 1  # for the broken one
    assert {entry["image_id"] for entry in json.loads(done.stdout)} == {6818, 37777}
    (line,) = done.stderr.splitlines()
    assert line.startswith("Error: photos/broken.jpg is not an image")
    steps = [line.partition(" s  ")[2] for line in run("effdet-detect", *words, "-v", cwd=trained).stderr.splitlines()]
    assert [step.split()[0] for step in steps if step] == ["loaded", "detected", "wrote"]
