"""Masks: the class of every pixel of the original image, from logits to files."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from numpy.typing import NDArray
from PIL import Image

from effdet_torch import Predictor, save_model
from effdet_torch.commands.detect import detect
from effdet_torch.errors import OverwriteError
from effdet_torch.inference.files.detect_images import detect_images
from effdet_torch.inference.files.find import Sources
from effdet_torch.inference.files.found import named
from effdet_torch.inference.files.places import Outputs, Places, mask_path, planned
from effdet_torch.inference.partial_results import PartialResults
from effdet_torch.inference.results.image_detections import ImageDetections
from effdet_torch.inference.results.visualize import class_color, draw_detections, tinted
from effdet_torch.network.model import EfficientDet
from effdet_torch.processing.cpu import image_masks
from effdet_torch.processing.sampling import scaled_size
from support.networks import alive
from support.sources import small_config

BOTH = ("object_detection", "segmentation")
CONFIG = small_config(heads=BOTH, image_size=(64, 96), seg_num_classes=4)
SIZES = [(64, 96), (37, 53), (200, 31), (1, 1), (128, 192)]


@pytest.fixture(scope="module", params=[BOTH, ("segmentation",)])
def model(request: pytest.FixtureRequest) -> EfficientDet:
    return alive(EfficientDet(replace(CONFIG, heads=request.param)))


def pixel_by_pixel(logits: NDArray[np.float32], size: tuple[int, int], canvas: tuple[int, int]) -> NDArray[np.uint8]:
    """The class of the cell in which the centre of a pixel lies on the canvas."""
    used, cells = scaled_size(size, canvas)[:2], logits.shape[1:]
    mask = np.zeros(size, np.uint8)
    for y, x in np.ndindex(*size):
        row = int((y + 0.5) * used[0] / size[0] * cells[0] / canvas[0])
        column = int((x + 0.5) * used[1] / size[1] * cells[1] / canvas[1])
        mask[y, x] = logits[:, row, column].argmax()
    return mask


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("is_tensor", [False, True])
def test_every_pixel_has_the_class_of_its_cell(size: tuple[int, int], is_tensor: bool) -> None:
    logits = np.random.default_rng(0).standard_normal((1, 4, 16, 24)).astype(np.float32)
    (mask,) = image_masks(torch.from_numpy(logits) if is_tensor else logits, [size], (64, 96))
    assert (mask.dtype, mask.shape) == (np.uint8, size)
    expected = pixel_by_pixel(logits[0], size, (64, 96))
    np.testing.assert_array_equal(mask, expected)
    if min(size) > 30:  # negative control: the whole canvas, instead of the part that the image fills
        other = pixel_by_pixel(logits[0], size, scaled_size(size, (64, 96))[:2])
        assert (size == (64, 96) or size == (128, 192)) == (other == expected).all()


def test_many_classes_need_wider_numbers() -> None:
    logits = np.zeros((1, 300, 16, 24), np.float32)
    logits[0, 299] = 1
    (mask,) = image_masks(logits, [(64, 96)], (64, 96))
    assert mask.dtype == np.uint16
    assert (mask == 299).all()


def test_a_predictor_gives_the_mask_of_the_network(model: EfficientDet) -> None:
    image = np.random.default_rng(1).integers(0, 256, (90, 120, 3), np.uint8)
    predictor = Predictor(model, score_threshold=0)
    found, other = predictor([image, image[::-1]])
    pixels, _ = predictor.prepare([image])
    with torch.no_grad():
        outputs = model(torch.from_numpy(pixels))
    logits = outputs if isinstance(outputs, torch.Tensor) else outputs[2]
    assert found.mask is not None
    assert found.mask.shape == (90, 120)
    np.testing.assert_array_equal(found.mask, pixel_by_pixel(logits[0].numpy(), (90, 120), (64, 96)))
    assert other.mask is not None
    assert (found.mask != other.mask).any()
    assert sum(found.mask_shares().values()) == pytest.approx(1)
    assert (len(found) > 0) == model.config.detects
    assert found.boxes_xyxy.shape == (len(found), 4)


def test_a_model_without_the_head_has_no_mask() -> None:
    predictor = Predictor(EfficientDet(replace(CONFIG, heads=BOTH[:1])))
    (found,) = predictor(np.zeros((64, 96, 3), np.uint8))
    assert found.mask is None
    assert found.mask_shares() == {}


def test_a_drawing_is_tinted_and_has_a_legend() -> None:
    image, mask = np.full((240, 320, 3), 100, np.uint8), np.zeros((240, 320), np.uint8)
    mask[:, 160:] = 2
    picture = tinted(image, mask)
    for column, number in ((10, 0), (300, 2)):
        np.testing.assert_array_equal(picture[20, column], [50 + value // 2 for value in class_color(number)])
    drawn = np.asarray(draw_detections(image, replace(ImageDetections.none(), mask=mask)))
    np.testing.assert_array_equal(drawn[:180], picture[:180])
    colors = {tuple(color) for color in drawn[180:, :120].reshape(-1, 3).tolist()}
    assert {class_color(0), class_color(2)} <= colors
    assert class_color(1) not in colors
    np.testing.assert_array_equal(np.asarray(draw_detections(image, ImageDetections.none())), image)


def test_the_command_writes_masks(model: EfficientDet, tmp_path: Path) -> None:
    image = np.random.default_rng(2).integers(0, 256, (90, 120, 3), np.uint8)
    Image.fromarray(image).save(tmp_path / "a.png")
    save_model(model, path := tmp_path / "m.pth")
    names = [str(path), str(tmp_path / "a.png")]
    options = ["-o", str(tmp_path / "drawn"), "--json", str(tmp_path / "found.json"), "--score", "0.5"]
    done = CliRunner().invoke(detect, [*names, *options], catch_exceptions=False)
    assert done.exit_code == 0
    (expected,) = Predictor(path, score_threshold=0.5)(str(tmp_path / "a.png"))
    with Image.open(tmp_path / "drawn" / "a.png.mask.png") as mask:
        assert mask.mode == "L"
        np.testing.assert_array_equal(np.asarray(mask), expected.mask)
    assert "pixels: class 0 " in done.output
    assert (" x class " in done.output) == model.config.detects
    found = json.loads((tmp_path / "found.json").read_text())
    if model.config.detects:
        assert found == json.loads(json.dumps(named(expected.to_coco("a.png"), expected.names)))
    else:
        shares = {str(number): share for number, share in expected.mask_shares().items()}
        assert found == [{"image_id": "a.png", "mask": "a.png.mask.png", "shares": shares}]


def placed(paths: list[Path], folder: Path) -> list[Places]:
    return planned(Sources(paths, []), Outputs(folder))[0]


def test_a_mask_does_not_replace_an_original(model: EfficientDet, tmp_path: Path) -> None:
    image = Image.new("RGB", (96, 64))
    paths = [tmp_path / "a.png", tmp_path / "a.png.mask.png"]
    for path in paths:
        image.save(path)
    predictor = Predictor(model)
    assert mask_path(tmp_path / "out" / "a.png") == tmp_path / "out" / "a.png.mask.png"
    for given in (paths[:1], paths):
        folder = tmp_path if given == paths[:1] else tmp_path / "out"
        with pytest.raises(OverwriteError):
            list(detect_images(predictor, given, placed(given, folder)))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("option", ["--labels", "--json"])
def test_a_mask_does_not_replace_another_file_of_the_command(
    model: EfficientDet, option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (96, 64)).save("a.png")
    save_model(model, Path("m.pth"))
    Path("drawn").mkdir()
    Path("drawn/a.png.mask.png").write_text("cat\ndog\n")
    Path("drawn/labels.txt").write_text("cat\ndog\n")
    words = ["m.pth", "a.png", "--out", "drawn", option]
    done = CliRunner().invoke(detect, [*words, "drawn/a.png.mask.png"])
    assert isinstance(done.exception, OverwriteError) or done.exit_code == 2
    assert "the mask drawn/a.png.mask.png would overwrite" in f"{done.output}{done.exception}"
    assert sorted(path.name for path in Path("drawn").iterdir()) == ["a.png.mask.png", "labels.txt"]
    assert Path("drawn/a.png.mask.png").read_text() == "cat\ndog\n"
    assert CliRunner().invoke(detect, [*words, "drawn/labels.txt"]).exit_code == 0  # negative control


def test_a_mask_that_is_missing_is_made_when_a_run_resumes(tmp_path: Path) -> None:
    names = ["a.png", "b.png"]
    for name in names:
        Image.new("RGB", (96, 64)).save(tmp_path / name)
    paths, folder = [tmp_path / name for name in names], tmp_path / "drawn"
    predictor = Predictor(EfficientDet(CONFIG))
    kept = PartialResults(tmp_path / "found.json", dict)
    assert all(file.mask for file in detect_images(predictor, paths, placed(paths, folder), kept=kept))
    mask_path(folder / "a.png").unlink()
    kept = PartialResults(tmp_path / "found.json", dict)
    assert len(kept.done) == 2
    # Only what is done again has a mask to report.
    assert [file.mask is not None for file in detect_images(predictor, paths, placed(paths, folder), kept=kept)] == [
        True,
        False,
    ]
    assert mask_path(folder / "a.png").is_file()
