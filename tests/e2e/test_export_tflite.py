"""`.tflite` files from the command: written in 8 bits, run, evaluated, and told apart from those of other tools."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from effdet_torch import Predictor, create_model, export_model, load_model, save_model
from support.coco_samples import write_coco
from support.commands import run, run_here
from support.tflite_files import pack, unpack

EXAMPLE = Path(__file__).resolve().parents[2] / "docs" / "examples" / "litert_detect.py"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, its float and its 8-bit file, the float one without our document, and a small COCO."""
    folder = tmp_path_factory.mktemp("tflite")
    torch.manual_seed(0)
    model = create_model("lite0", num_classes=3, image_size=128, fpn_channels=16, fpn_cells=1).eval()
    with torch.no_grad():
        model.get_parameter("class_net.predict.conv_pw.weight").normal_(std=20)
        model.get_parameter("class_net.predict.conv_pw.bias").zero_()
    save_model(model, folder / "model.pth")
    write_coco(folder / "coco")
    done = run_here("effdet-export", "model.pth", "float.tflite", cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")
    words = ("model.pth", "int8.tflite", "--int8", "--calibrate", "coco/val2017")
    done = run_here("effdet-export", *words, cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert "format   litert, detections, uint8, batch 1, 128 x 128 pixels, int8\n" in done.stdout
    assert "note     ranges measured on 4 images; few: pass some hundreds like those that OUT will see" in done.stdout
    assert "the NMS inside" in done.stdout
    assert re.search(r"check    LiteRT \S+: largest error \S+ .*, limit 1e-01(; .*)?\n", done.stdout)
    foreign = unpack((folder / "float.tflite").read_bytes())
    foreign.metadata = []
    (folder / "foreign.tflite").write_bytes(pack(foreign))
    return folder


def photo(folder: Path) -> Path:
    return next((folder / "coco" / "val2017").glob("*.jpg"))


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("float.tflite", (57, 80)),
        ("float.tflite", (101, 67)),
        # In 8 bits, one rounding of a resized pixel can move a score by a step.
        ("int8.tflite", (128, 128)),
    ],
    ids=str,
)
def test_the_example_in_the_docs_finds_the_same(folder: Path, tmp_path: Path, name: str, size: tuple[int, int]) -> None:
    image = tmp_path / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)).save(image)
    words = [sys.executable, str(EXAMPLE), name, str(image)]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=True)
    found = np.array([line.split()[-5:] for line in done.stdout.splitlines()], float)
    (expected,) = Predictor(folder / name, score_threshold=0.3)(image)
    assert len(found) == len(expected) > 3
    np.testing.assert_allclose(found[:, 0], expected.scores, atol=1e-3)
    np.testing.assert_allclose(found[:, 1:], expected.boxes_xyxy, rtol=0, atol=2e-2)


def test_names_given_for_the_file_are_those_of_the_file(folder: Path, tmp_path: Path) -> None:
    """Wherever it is used: in the predictor, in its labels, and converted back."""
    names = {1: "cat", 3: "dog"}
    export_model(load_model(folder / "model.pth"), tmp_path / "named.tflite", label_map=names, check=False)
    assert Predictor(tmp_path / "named.tflite").label_map == names
    with zipfile.ZipFile(tmp_path / "named.tflite") as labels:
        assert labels.read("labels.txt").decode() == "cat\n???\ndog\n"
    done = run_here("effdet-convert", "named.tflite", "back.pth", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert dict(load_model(tmp_path / "back.pth").config.label_map) == names
    assert not Predictor(folder / "float.tflite").label_map  # negative control: the model has none


def test_levels_of_one_cell_cannot_be_converted_back(folder: Path, tmp_path: Path) -> None:
    model = load_model(folder / "model.pth")
    for side, code in ((64, 1), (96, 0)):
        export_model(model, tmp_path / "small.tflite", image_size=(side, side), check=False)
        done = run_here("effdet-convert", "small.tflite", "back.pth", cwd=tmp_path)
        assert (done.returncode, "two levels of the pyramid have one cell each" in done.stderr) == (code, code == 1)


def test_another_suffix_is_said(folder: Path, tmp_path: Path) -> None:
    for name in ("ren.pth", "ren.bin"):
        (tmp_path / name).write_bytes((folder / "float.tflite").read_bytes())
        done = run_here("effdet-detect", name, photo(folder), cwd=tmp_path)
        assert done.returncode == 1
        assert f"{name} is a TensorFlow Lite file by its content; rename it to ren.tflite" in done.stderr


def test_it_is_a_model_like_any_other(folder: Path) -> None:
    done = run("effdet-detect", "int8.tflite", photo(folder), cwd=folder)
    warning = "Warning: UNTRAINED the whole network: still initial values; train the model before you use it\n"
    assert (done.returncode, done.stderr) == (0, warning)
    assert "class 2" in done.stdout


@pytest.mark.slow
def test_it_is_evaluated_and_converted(folder: Path) -> None:
    done = run_here("effdet-verify", "int8.tflite", "--coco", "coco", "--compare", "float.tflite", cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert "Two models were evaluated on the same images" in done.stdout
    done = run_here("effdet-convert", "float.tflite", "back.pth", cwd=folder)
    assert done.returncode == 0
    original, back = (
        Predictor(folder / name, score_threshold=0)(photo(folder))[0] for name in ("model.pth", "back.pth")
    )
    np.testing.assert_allclose(back.scores, original.scores, atol=1e-5)


def test_as_a_backend_it_leaves_the_profile_alone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of its own would have TensorFlow Lite's NMS inside."""
    monkeypatch.setenv("EFFDET_CACHE", str(folder / "cache"))
    backend = Predictor(folder / "model.pth", backend="litert", score_threshold=0)
    assert backend.profile == Predictor(folder / "model.pth").profile != Predictor(folder / "float.tflite").profile
    assert not backend.has_nms_inside


def test_what_verify_says_of_8_bits(folder: Path, tmp_path: Path) -> None:
    """Neither more than it compared, nor that single detections should be equal."""
    done = run_here("effdet-verify", "int8.tflite", "--reference", "model.pth", cwd=folder)
    assert (done.returncode, done.stdout) == (1, "")
    assert "computes in 8 bits, so single detections differ" in done.stderr
    out = tmp_path / "network.tflite"
    words = ("model.pth", out, "--int8", "--nms", "none", "--calibrate", "coco/val2017/*.jpg")
    done = run_here("effdet-export", *words, cwd=folder)
    assert (done.returncode, "the NMS inside" in done.stdout) == (0, False)  # there is none
    done = run_here("effdet-verify", out, "--reference", "model.pth", "--image", photo(folder), cwd=folder)
    assert done.returncode == 0
    assert "The exported file computes roughly the outputs of its reference, as 8 bits allow" in done.stdout


def test_one_image_to_calibrate_with_is_few(folder: Path, tmp_path: Path) -> None:
    words = ("model.pth", tmp_path / "one.tflite", "--int8", "--no-check", "--calibrate", photo(folder))
    assert "note     ranges measured on 1 image; few: pass" in run_here("effdet-export", *words, cwd=folder).stdout


def test_a_file_of_another_tool_is_a_source(folder: Path) -> None:
    for words in (("effdet-detect", "foreign.tflite", photo(folder)), ("effdet-export", "foreign.tflite", "a.onnx")):
        done = run_here(*words, cwd=folder)
        assert done.returncode == 1
        assert (
            "without the metadata of effdet-export: from another tool, or cut off. Convert it first (effdet-convert "
            "foreign.tflite foreign"
        ) in " ".join(done.stderr.split())
    done = run_here("effdet-export", "float.tflite", "a.onnx", cwd=folder)
    assert (done.returncode, "exported already" in done.stderr) == (2, True)
    done = run_here("effdet-verify", "model.pth", "--reference", "float.tflite", cwd=folder)
    assert (done.returncode, "pass it as MODEL" in done.stderr) == (2, True)


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (("--int8",), 2, "int8 needs images to measure the range of every tensor with: pass --calibrate PHOTOS"),
        (("--calibrate", "coco/val2017"), 2, "calibration images have no effect in float32; pass --int8"),
        (("--int8", "--calibrate", "coco/annotations"), 2, "no image found: coco/annotations"),
        (("--int8", "--float16", "--calibrate", "coco/val2017"), 2, "float16 and int8 exclude each other"),
        (("--int8", "--calibrate", "model.pth"), 1, "model.pth"),
    ],
)
def test_wrong_usage_is_explained(folder: Path, options: tuple[str, ...], code: int, said: str) -> None:
    done = run_here("effdet-export", "model.pth", "wrong.tflite", *options, cwd=folder)
    assert (done.returncode, done.stdout) == (code, "")
    assert said in " ".join(done.stderr.split())
    assert not (folder / "wrong.tflite").exists()


def test_the_document_states_what_was_done(folder: Path) -> None:
    content = (folder / "int8.tflite").read_bytes()
    start = content.index(b'{"format_version"')
    document = json.JSONDecoder().raw_decode(content[start:].decode("latin-1"))[0]
    assert document["calibrated_on"] == 4
    assert document["export"]["precision"] == "int8"
