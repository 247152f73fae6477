"""`effdet-export` and the commands that take its files, in processes of their own."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from PIL import Image

from effdet_torch import Predictor
from effdet_torch.file_format import METADATA_KEY
from support.coco_samples import convert_trained, write_coco
from support.commands import run, run_here
from support.exports import export_sample

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "docs" / "examples" / "onnx_detect.py"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, its export with detections inside, and a small COCO."""
    folder = tmp_path_factory.mktemp("export")
    model = export_sample()
    metadata = {"config": model.config.to_dict(), "source": {"name": "mine"}, "view": {"name": "ema"}, "assumed": {}}
    torch.save({"state_dict": model.state_dict(), "metadata": metadata}, folder / "model.pth")
    write_coco(folder / "coco")
    done = run("effdet-export", "model.pth", "model.onnx", "--nms", "soft", cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert "format   onnx, detections, normalized, batch 1, 192 x 128 pixels, float32\n" in done.stdout
    assert re.search(
        r"check    ONNX Runtime .*: largest error \S+ (in a score|of the image's longer side, in a box), limit",
        done.stdout,
    )
    return folder


def photo(folder: Path) -> Path:
    return folder / "coco" / "val2017" / "000000000012.jpg"


def detected(folder: Path, model: str, *options: str) -> list[dict[str, object]]:
    words = ("--json", "found.json", "--score", "0", "-q", *options)
    done = run_here("effdet-detect", model, photo(folder), *words, cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")
    found: list[dict[str, object]] = json.loads((folder / "found.json").read_text())
    return found


def test_detect_takes_an_exported_file(folder: Path) -> None:
    found, expected = detected(folder, "model.onnx"), detected(folder, "model.pth")
    assert len(found) == len(expected) > 10
    scores = [[entry["score"] for entry in entries] for entries in (found, expected)]
    assert scores[0] == pytest.approx(scores[1], abs=1e-4)
    assert found[0]["bbox"] == pytest.approx(expected[0]["bbox"], abs=0.01)


def test_verify_takes_an_exported_file(folder: Path) -> None:
    """With its own profile, which the NMS inside has."""
    words = ("effdet-verify", "model.onnx", "--coco", "coco", "--workers", "0")
    done = run_here(*words, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("EVALUATED")
    assert "profile serving; metrics by" in " ".join(done.stdout.split())
    assert "The NMS is inside the file, so the profile is its own, serving." in " ".join(done.stdout.split())
    assert run_here(*words, "--profile", "model", "--compare", "model.pth", cwd=folder).returncode == 0
    refused = run_here(*words, "--profile", "official-eval", cwd=folder)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr == (
        "Error: the file makes its detections with the profile serving, not with official-eval; pass --profile model, "
        "or export it again with --nms none, which leaves the choice to every call\n"
    )


def test_an_exported_file_where_its_source_belongs(folder: Path) -> None:
    done = run_here("effdet-verify", "model.pth", "--reference", "model.onnx", cwd=folder)
    assert done.returncode == 2
    assert "--reference model.onnx is an exported file: pass it as MODEL" in done.stderr
    done = run_here("effdet-inspect", "model.onnx", cwd=folder)
    assert done.returncode == 1
    assert "effdet-detect and effdet-verify take one that effdet-export wrote, as MODEL" in done.stderr


def test_an_exported_file_needs_neither_torch_nor_timm(folder: Path) -> None:
    code = (
        "import sys\nfrom effdet_torch import Predictor\n"
        "assert len(Predictor(sys.argv[1], score_threshold=0)(sys.argv[2])[0]) > 10\n"
        "print({'torch', 'torchvision', 'timm', 'onnx', 'onnxscript'} & set(sys.modules))"
    )
    for model, found in (("model.onnx", "set()"), ("model.pth", "{'torch'}")):  # the second: negative control
        words = [sys.executable, "-c", code, str(folder / model), str(photo(folder))]
        assert subprocess.run(words, cwd=folder, capture_output=True, text=True, check=True).stdout == f"{found}\n"


def example(folder: Path, model: str, image: Path) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, str(EXAMPLE), model, str(image)]
    return subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("size", [(57, 80), (101, 67), (128, 192)], ids=str)
def test_the_example_in_the_docs_finds_the_same(folder: Path, tmp_path: Path, size: tuple[int, int]) -> None:
    """Sides that the scale does not divide are rounded down, so the two axes are resized by different factors."""
    image = tmp_path / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)).save(image)
    assert len(EXAMPLE.read_text(encoding="utf-8").splitlines()) <= 40
    done = example(folder, "model.onnx", image)
    assert (done.returncode, done.stderr) == (0, "")
    found = np.array([line.split()[-5:] for line in done.stdout.splitlines()], float)
    (expected,) = Predictor(folder / "model.onnx", score_threshold=0.3)(image)
    assert len(found) == len(expected) > 3
    np.testing.assert_allclose(found[:, 0], expected.scores, atol=1e-3)
    np.testing.assert_allclose(found[:, 1:], expected.boxes_xyxy, rtol=0, atol=1e-2)


@pytest.mark.parametrize("other", [{"outputs": "network"}, {"pixels": "uint8"}, {"batch": 8}], ids=str)
def test_the_example_refuses_another_kind_of_file(folder: Path, tmp_path: Path, other: dict[str, object]) -> None:
    """What a file is stands in its document; that the document is right is tested in tests/unit."""
    model = onnx.load(folder / "model.onnx")
    (entry,) = (entry for entry in model.metadata_props if entry.key == METADATA_KEY)
    document = json.loads(entry.value)
    document["export"].update(other)
    entry.value = json.dumps(document)
    onnx.save(model, tmp_path / "other.onnx")
    done = example(folder, str(tmp_path / "other.onnx"), photo(folder))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "this example needs a file of: effdet-export MODEL OUT.onnx --nms soft\n"


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("model.pth", "model.pth"), 2, "OUT model.pth would overwrite model.pth, which is read"),
        (("model.pth", "out.mlmodel"), 2, "no format has the suffix '.mlmodel'"),
        (("model.pth", "out.tflite", "--nms", "soft"), 2, "litert has hard NMS only; pass --nms hard"),
        (
            ("model.pth", "out.tflite", "--float16", "--precision", "float32"),
            2,
            "float16 and float32 exclude each other",
        ),
        (("model.pth", "out.tflite", "--int8"), 2, "int8 needs images to measure the range"),
        (
            ("model.pth", "out.tflite", "--float16", "--calibrate", "."),
            2,
            "calibration images have no effect",
        ),
        (("model.pth", "out.xml", "--format", "onnx"), 2, "a file of the format onnx ends in .onnx"),
        (("model.pth", "nowhere/out.onnx"), 2, "the folder nowhere does not exist"),
        (("model.pth", "-"), 2, "is a stream; name a file"),
        (("model.pth", "out.onnx", "--batch", "0"), 2, "is not a number of images"),
        (("model.pth", "out.onnx", "--image-size", "big"), 2, "is not a side or WIDTHxHEIGHT"),
        (
            ("model.pth", "out.onnx", "--image-size", "8x200"),
            2,
            "the image size (200, 8) cannot be used; expected (height, width), two integers from 32 to 8192",
        ),
        (("model.pth", "out.onnx", "--nms", "soft", "--image-size", "dynamic"), 2, "the anchors depend on"),
        (("model.pth", "out.onnx", "--profile", "serving"), 2, "has no effect without NMS"),
        (("model.onnx", "out.onnx"), 2, "model.onnx is exported already"),
        (("model.pth", "out.xml", "--opset", "18"), 2, "opset is for .onnx files"),
        (("missing.pth", "out.onnx"), 1, "cannot read the model file missing.pth"),
    ],
)
def test_what_cannot_be_exported(folder: Path, words: tuple[str, ...], code: int, said: str) -> None:
    before = sorted(folder.iterdir())
    done = run_here("effdet-export", *words, cwd=folder)
    assert (done.returncode, done.stdout) == (code, "")
    assert said in done.stderr
    assert done.stderr.splitlines()[-1].startswith("Error: ")
    assert sorted(folder.iterdir()) == before


def test_a_skipped_check_is_said(folder: Path) -> None:
    done = run_here("effdet-export", "model.pth", "fast.torchscript", "--no-check", cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert "check    skipped: OUT was not run\n" in done.stdout
    assert "note     deprecated by PyTorch" in done.stdout


def test_an_untrained_part_is_said(folder: Path, tmp_path: Path) -> None:
    content = torch.load(folder / "model.pth", weights_only=True)
    for parts in (["class and box predictions"], []):
        content["metadata"]["untrained"] = parts
        torch.save(content, tmp_path / "model.pth")
        done = run_here("effdet-export", "model.pth", "m.tflite", "--no-check", cwd=tmp_path)
        assert ("note     UNTRAINED class and box predictions: " in done.stdout) == bool(parts)


def test_a_backend_is_exported_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EFFDET_CACHE", str(folder / "cache"))
    words = ("effdet-detect", "model.pth", photo(folder), "--backend", "litert", "--score", "0")
    first, second = run_here(*words, cwd=folder), run_here(*words, cwd=folder)
    (place,) = (folder / "cache" / "exports").iterdir()
    assert first.stderr == f"exporting model.pth once, for LiteRT, to {place}\n"
    assert (second.returncode, second.stderr, second.stdout) == (0, "", first.stdout)
    place.write_bytes(b"damaged")
    assert run_here(*words, cwd=folder).stderr == first.stderr
    done = run_here("effdet-detect", "model.onnx", photo(folder), "--backend", "litert", cwd=folder)
    assert (done.returncode, done.stdout) == (2, "")
    assert "model.onnx is exported already" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("out", ["trained.onnx", "trained.xml", "trained.pt2"])
def test_the_trained_model_detects_the_same(shared: Path, tmp_path: Path, out: str) -> None:
    """Detections of the exported network agree one to one with those of the model, on photographs."""
    convert_trained(shared, tmp_path / "trained.pth")
    assert run("effdet-export", "trained.pth", out, cwd=tmp_path).returncode == 0
    photos = sorted((shared / "coco50" / "val2017").glob("*.jpg"))[:5]
    words = ("--json", "-", "-q", "--profile", "official-eval")
    found, expected = (
        json.loads(run("effdet-detect", model, *photos, *words, cwd=tmp_path).stdout) for model in (out, "trained.pth")
    )
    assert len(found) == len(expected) > 20
    for one, other in zip(found, expected, strict=True):
        assert (one["image_id"], one["category_id"]) == (other["image_id"], other["category_id"])
        assert one["score"] == pytest.approx(other["score"], abs=1e-4)
        assert one["bbox"] == pytest.approx(other["bbox"], abs=0.05)
