"""One call from images to detections."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

import effdet_torch
from converter.conversion import convert_checkpoint, prepare
from converter.locate import open_checkpoint
from effdet_torch import Predictor, create_model
from effdet_torch.errors import ConfigError, ModelFileError
from effdet_torch.inference.images import ImageError, read_image
from effdet_torch.inference.postprocess import PROFILES
from effdet_torch.inference.predict import ImageDetections
from effdet_torch.network.model import EfficientDet

# Of the official code; see the facts about float32 on padded photographs.
BOX_ERROR_PX = 0.5
SCORE_ERROR = 1e-3
IMAGE_IDS = (6818, 37777, 87038, 386912, 397133, 403385)

Pixels = NDArray[np.uint8]


def untrained() -> EfficientDet:
    torch.manual_seed(0)
    model = create_model("d0", num_classes=3, image_size=128)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():  # with its initial statistics the network would give the same for every image
        model.train()(torch.randn(4, 3, 128, 128))
    return model


@pytest.fixture(scope="module")
def model() -> EfficientDet:
    """A small untrained network: its detections are arbitrary and repeatable."""
    return untrained()


@pytest.fixture(scope="module")
def images() -> list[Pixels]:
    random = np.random.default_rng(0)
    return [random.integers(0, 256, (*size, 3), dtype=np.uint8) for size in ((90, 120), (128, 128), (30, 200))]


@pytest.fixture(scope="module")
def trained(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The trained checkpoint, converted."""
    path = tmp_path_factory.mktemp("trained") / "d0.pth"
    with open_checkpoint(shared / "trained_d0_256") as source:
        convert_checkpoint(prepare(source, None, None, None, False), path)
    return path


def photographs(shared: Path, ids: Sequence[int] = IMAGE_IDS) -> list[Path]:
    return [shared / "coco50" / "val2017" / f"{number:012d}.jpg" for number in ids]


def assert_same(first: ImageDetections, second: ImageDetections) -> None:
    """Bit for bit, in the same order."""
    for name in ("boxes_xyxy", "scores", "category_ids"):
        assert torch.equal(getattr(first, name), getattr(second, name)), name
    assert first.names == second.names


# The official code's detections


def official(shared: Path, file: str, image_id: int) -> list[dict[str, Any]]:
    path = shared / "trained_d0_256" / "detections" / f"det_ema_pil_{file}.json"
    return [entry for entry in json.loads(path.read_text()) if entry["image_id"] == image_id]


def unmatched(found: list[dict[str, Any]], expected: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the expected detections that have no partner of their own; all entries come best first."""
    free = list(found)
    missing = []
    for entry in expected:
        partner = next((other for other in free if agree(other, entry)), None)
        if partner is None:
            missing.append(entry)
        else:
            free.remove(partner)
    return missing


def agree(first: dict[str, Any], second: dict[str, Any]) -> bool:
    return (
        first["category_id"] == second["category_id"]
        and bool(np.abs(np.subtract(first["bbox"], second["bbox"])).max() < BOX_ERROR_PX)
        and abs(first["score"] - second["score"]) < SCORE_ERROR
    )


@pytest.mark.parametrize(
    ("profile", "file"), [("official-eval", "perclass5000_gaussian"), ("serving", "global_gaussian")]
)
def test_detects_what_the_official_code_detects(shared: Path, trained: Path, profile: str, file: str) -> None:
    predictor = Predictor(trained, profile=profile, device="cpu")
    results = predictor(photographs(shared))
    wrong = {}
    for image_id, result in zip(IMAGE_IDS, results, strict=True):
        expected = official(shared, file, image_id)
        assert len(result) == len(expected) == 100
        wrong[image_id] = unmatched(result.to_coco(image_id), expected)
    assert not any(wrong.values()), wrong


def test_another_profile_or_image_is_noticed(shared: Path, trained: Path) -> None:
    """Negative control."""
    found = Predictor(trained, profile="serving", device="cpu")(photographs(shared, [37777]))[0].to_coco(37777)
    assert not unmatched(found, official(shared, "global_gaussian", 37777))
    assert unmatched(found, official(shared, "global_hard", 37777))
    assert len(unmatched(found, official(shared, "global_gaussian", 6818))) == 100


def test_coco_names(shared: Path, trained: Path) -> None:
    found = Predictor(trained, score_threshold=0.5)(photographs(shared, [6818]))[0]
    assert (found.names, found.category_ids.tolist()) == (["toilet"], [70])
    xmin, ymin, xmax, ymax = found.boxes_xyxy[0].tolist()
    assert (xmin, ymin, xmax, ymax) == pytest.approx((187.5, 472.1, 287.1, 529.2), abs=0.1)


# The result


def test_shapes_and_types(model: EfficientDet, images: list[Pixels]) -> None:
    results = Predictor(model)(images)
    assert len(results) == 3
    for result in results:
        count = len(result)
        assert 0 < count <= 100
        assert (result.boxes_xyxy.shape, result.boxes_xyxy.dtype) == ((count, 4), torch.float32)
        assert (result.scores.shape, result.scores.dtype) == ((count,), torch.float32)
        assert (result.category_ids.shape, result.category_ids.dtype) == ((count,), torch.int64)
        assert bool((result.scores.diff() <= 0).all())
        assert set(result.category_ids.tolist()) <= {1, 2, 3}


def test_to_coco_gives_plain_numbers() -> None:
    found = ImageDetections(torch.tensor([[10.0, 20.0, 14.0, 26.0]]), torch.tensor([0.5]), torch.tensor([18]), ["dog"])
    expected = {"image_id": "a.jpg", "category_id": 18, "bbox": [10.0, 20.0, 4.0, 6.0], "score": 0.5}
    assert json.loads(json.dumps(found.to_coco("a.jpg"))) == [expected]


def test_names(model: EfficientDet, images: list[Pixels]) -> None:
    unnamed = Predictor(model)(images[0])[0]
    assert unnamed.names == [f"class {number}" for number in unnamed.category_ids.tolist()]
    named = Predictor(model, label_map={1: "cat", 2: "dog"})(images[0])[0]
    expected = {1: "cat", 2: "dog", 3: "class 3"}
    assert named.names == [expected[number] for number in named.category_ids.tolist()]
    assert len(set(named.names)) > 1


def test_score_threshold(model: EfficientDet, images: list[Pixels]) -> None:
    everything = Predictor(model)(images[0])[0]
    limit = float(everything.scores[10])
    kept = Predictor(model, score_threshold=limit)(images[0])[0]
    assert 11 <= len(kept) < len(everything)
    assert torch.equal(kept.boxes_xyxy, everything.boxes_xyxy[: len(kept)])
    nothing = Predictor(model, score_threshold=1.0)(images[0])[0]
    assert (len(nothing), nothing.boxes_xyxy.shape, nothing.to_coco(1)) == (0, (0, 4), [])


@pytest.mark.parametrize("profile", [*PROFILES, PROFILES["official-eval"]])
def test_every_profile(model: EfficientDet, images: list[Pixels], profile: Any) -> None:
    found = Predictor(model, profile=profile)(images[0])[0]
    assert len(found) == 100


def test_serving_boxes_stay_inside_the_network_input(model: EfficientDet, images: list[Pixels]) -> None:
    found = Predictor(model, profile="serving")(images[0])[0]  # 90 x 120 in a square
    assert found.boxes_xyxy.min() >= 0
    assert found.boxes_xyxy.max() <= 120.001
    assert Predictor(model, profile="official-eval")(images[0])[0].boxes_xyxy.min() < 0


# Batches


def test_company_and_batch_size_do_not_matter_on_the_cpu(model: EfficientDet, images: list[Pixels]) -> None:
    predictor = Predictor(model)
    together = predictor(images, batch_size=8)
    for alone, one_by_one, found in zip(map(predictor, images), predictor(images, batch_size=1), together, strict=True):
        assert_same(found, alone[0])
        assert_same(found, one_by_one)
    assert not torch.equal(together[0].scores, together[1].scores)


def test_a_padded_batch_gives_the_same_up_to_rounding(model: EfficientDet, images: list[Pixels]) -> None:
    predictor = Predictor(model, profile="official-eval-hard")
    for found, alone in zip(predictor.detect_batch(list(images)), predictor(images), strict=True):
        np.testing.assert_allclose(found.scores, alone.scores, atol=1e-5)


def test_images_may_come_one_after_another(model: EfficientDet, images: list[Pixels]) -> None:
    predictor = Predictor(model)
    for lazy, listed in zip(predictor(image for image in images), predictor(images), strict=True):
        assert_same(lazy, listed)
    assert predictor([]) == []


# What an image may be


def test_every_kind_of_image_gives_the_same(model: EfficientDet, images: list[Pixels], tmp_path: Path) -> None:
    pixels = images[0]
    path = tmp_path / "a.png"
    Image.fromarray(pixels).save(path)
    predictor = Predictor(model)
    expected = predictor(pixels)[0]
    tensor = torch.from_numpy(pixels.copy())
    kinds = [path, str(path), Image.fromarray(pixels), pixels.transpose(2, 0, 1), tensor, tensor.permute(2, 0, 1)]
    for kind in kinds:
        (alone,) = predictor(kind)
        assert_same(alone, expected)
    for found in [*predictor(kinds), *predictor(torch.stack([tensor, tensor])), *predictor(np.stack([pixels]))]:
        assert_same(found, expected)


def test_a_grey_picture_is_taken(model: EfficientDet, images: list[Pixels]) -> None:
    grey = Image.fromarray(images[0][:, :, 0])
    assert_same(Predictor(model)(grey)[0], Predictor(model)(grey.convert("RGB"))[0])


def test_a_file_is_turned_and_an_open_picture_is_not(model: EfficientDet, images: list[Pixels], tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(images[0]).save(tmp_path / "a.png", exif=exif)
    predictor = Predictor(model)
    assert_same(predictor(tmp_path / "a.png")[0], predictor(np.rot90(images[0], -1))[0])
    with Image.open(tmp_path / "a.png") as picture:
        assert_same(predictor(picture)[0], predictor(images[0])[0])
    assert_same(predictor(read_image(tmp_path / "a.png"))[0], predictor(images[0])[0])


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((4, 4, 3), np.float32), "dtype float32; expected uint8"),
        (torch.zeros(4, 4, 3), r"dtype torch\.float32; expected uint8"),
        (np.zeros((4, 4), np.uint8), r"shape \(4, 4\); expected RGB"),
        (np.zeros((4, 4, 4), np.uint8), r"shape \(4, 4, 4\); expected RGB"),
        (np.zeros((0, 4, 3), np.uint8), r"shape \(0, 4, 3\); expected RGB"),
        (torch.zeros((3, 0, 4), dtype=torch.uint8), r"shape \(3, 0, 4\); expected RGB"),
        ([None], "an image is a NoneType; expected a path"),
        ("missing.jpg", r"missing\.jpg: No such file"),
    ],
)
def test_what_is_no_image(model: EfficientDet, image: Any, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        Predictor(model)(image)


def test_one_pixel(model: EfficientDet) -> None:
    assert len(Predictor(model)(np.full((1, 1, 3), 200, np.uint8))) == 1


# How the network runs


def test_a_training_model_is_switched(images: list[Pixels]) -> None:
    model = untrained()
    predictor = Predictor(model)
    model.train()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    predictor(images[0])
    assert not model.training
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())


def scores(predictor: Predictor, image: Pixels) -> Tensor:
    return predictor(image)[0].scores


def test_channels_last(images: list[Pixels]) -> None:
    model = untrained()
    plain = scores(Predictor(model, profile="official-eval-hard"), images[0])
    inputs: list[Tensor] = []
    model.register_forward_pre_hook(lambda _, arguments: inputs.append(arguments[0]))
    nhwc = scores(Predictor(model, profile="official-eval-hard", channels_last=True), images[0])
    np.testing.assert_allclose(nhwc, plain, atol=1e-5)
    weights = [parameter for parameter in model.parameters() if parameter.ndim == 4]
    assert all(tensor.is_contiguous(memory_format=torch.channels_last) for tensor in [*inputs, *weights])


@pytest.mark.parametrize(("autocast", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_autocast(images: list[Pixels], autocast: bool, dtype: torch.dtype) -> None:
    model = untrained()
    logits: list[Tensor] = []
    model.register_forward_hook(lambda _, __, outputs: logits.extend(outputs[0]))
    found = Predictor(model, autocast=autocast)(images[0])[0]
    assert {level.dtype for level in logits} == {dtype}
    assert (found.boxes_xyxy.dtype, found.scores.dtype) == (torch.float32, torch.float32)


def test_a_float64_model(images: list[Pixels]) -> None:
    model = untrained()
    plain = scores(Predictor(model, profile="official-eval-hard"), images[0])
    precise = scores(Predictor(model.double(), profile="official-eval-hard"), images[0])
    assert precise.dtype == torch.float32
    np.testing.assert_allclose(precise, plain, atol=1e-5)


@pytest.mark.parametrize("device", ["nonsense", "cuda:99", "meta"])
def test_devices_that_cannot_be_used(model: EfficientDet, device: str) -> None:
    with pytest.raises(ConfigError, match=f"the device '{device}' cannot be used"):
        Predictor(model, device=device)


def test_wrong_settings(model: EfficientDet, images: list[Pixels], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="unknown postprocessing profile 'fast'"):
        Predictor(model, profile="fast")
    with pytest.raises(ConfigError, match="score_threshold is 30; expected 0 to 1"):
        Predictor(model, score_threshold=30)
    with pytest.raises(ConfigError, match="batch_size is 0"):
        Predictor(model)(images, batch_size=0)
    with pytest.raises(ModelFileError, match=r"missing\.pth"):
        Predictor(tmp_path / "missing.pth")


def test_the_package_offers_it() -> None:
    assert effdet_torch.Predictor is Predictor
    assert "Predictor" in effdet_torch.__all__
