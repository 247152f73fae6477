"""One call from images to detections; `tests/parity/test_coco_metrics.py` compares with the official code."""

from __future__ import annotations

import json
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from effdet_torch import Predictor
from effdet_torch.commands.detect import detect
from effdet_torch.config import SCORE_THRESHOLD
from effdet_torch.engines.torch_engine import TorchEngine, full_float32, usable_device
from effdet_torch.errors import ConfigError, ModelFileError, UsageError
from effdet_torch.inference import images as reading
from effdet_torch.inference.images import ImageError
from effdet_torch.inference.labels import COCO_NAMES
from effdet_torch.inference.results.image_detections import ImageDetections
from effdet_torch.network.model import EfficientDet
from effdet_torch.processing.profiles import PROFILES
from support.coco_samples import small_model
from support.image_memory import ImageMemory
from verify.detections.run import CocoSettings

HARD = "official-eval-hard"  # scores as the network gives them
Pixels = NDArray[np.uint8]
detector = partial(Predictor, score_threshold=0)  # an untrained network is sure of nothing


def fresh_model() -> EfficientDet:
    return small_model(num_classes=3, image_size=(128, 128))


@pytest.fixture(scope="module")
def model() -> EfficientDet:
    return fresh_model()


@pytest.fixture(scope="module")
def images() -> list[Pixels]:
    random = np.random.default_rng(0)
    return [random.integers(0, 256, (*size, 3), dtype=np.uint8) for size in ((90, 120), (128, 128), (30, 200))]


@pytest.fixture
def files(images: list[Pixels], tmp_path: Path) -> list[Path]:
    """The images as files; the second would be turned by its EXIF orientation."""
    exif = Image.Exif()
    exif[0x0112] = 6
    paths = [tmp_path / f"{number}.png" for number in range(3)]
    for path, pixels in zip(paths, images, strict=True):
        Image.fromarray(pixels).save(path, exif=exif if path == paths[1] else None)
    return paths


def assert_same(first: ImageDetections, second: ImageDetections) -> None:
    """Bit for bit, in the same order."""
    for name in ("boxes_xyxy", "scores", "category_ids"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name), strict=True)
    assert first.names == second.names


# The result


@pytest.mark.parametrize("profile", [*PROFILES, PROFILES["official-eval"]])
def test_shapes_types_and_names(model: EfficientDet, images: list[Pixels], profile: Any) -> None:
    results = detector(model, profile=profile)(images)
    # What lies beside an image is left out by one profile, which then has no others to take.
    least = 50 if profile == "object-detection-api" else 100
    assert all(least <= len(result) <= 100 for result in results)
    for result in results:
        count = len(result)
        assert (result.boxes_xyxy.shape, result.boxes_xyxy.dtype) == ((count, 4), np.float32)
        assert (result.scores.shape, result.scores.dtype) == ((count,), np.float32)
        assert (result.category_ids.shape, result.category_ids.dtype) == ((count,), np.int64)
        assert (np.diff(result.scores) <= 0).all()
        assert set(result.category_ids.tolist()) <= {1, 2, 3}
        assert result.names == [f"class {number}" for number in result.category_ids.tolist()]
    assert not np.array_equal(results[0].scores, results[1].scores)


def test_to_coco_gives_plain_numbers() -> None:
    columns = np.float32([[10, 20, 14, 26]]), np.float32([0.5]), np.array([18])
    found = ImageDetections(*columns, ["dog"])
    expected = {"image_id": "a.jpg", "category_id": 18, "bbox": [10.0, 20.0, 4.0, 6.0], "score": 0.5}
    assert json.loads(json.dumps(found.to_coco("a.jpg"))) == [expected]


def test_names_and_score_threshold(model: EfficientDet, images: list[Pixels], tmp_path: Path) -> None:
    everything = detector(model)(images[0])[0]
    limit = float(everything.scores[10])
    kept = detector(model, score_threshold=limit, label_map={1: "cat", 2: "dog"})(images[0])[0]
    assert 11 <= len(kept) < len(everything)
    assert np.array_equal(kept.boxes_xyxy, everything.boxes_xyxy[: len(kept)])
    assert kept.names == [{1: "cat", 2: "dog", 3: "class 3"}[number] for number in kept.category_ids.tolist()]
    assert detector(small_model(num_classes=90)).label_map == COCO_NAMES
    (tmp_path / "names.txt").write_text("cat\ndog\nbird")
    with pytest.raises(UsageError, match="label_map names category 4; expected 1 to 3"):
        detector(model, label_map={4: "cat"})
    assert detector(model, label_map=tmp_path / "names.txt").label_map == {1: "cat", 2: "dog", 3: "bird"}
    nothing = detector(model, score_threshold=1.0)(images[0])[0]
    assert (len(nothing), nothing.boxes_xyxy.shape, nothing.to_coco(1)) == (0, (0, 4), [])


def test_only_what_the_model_is_fairly_sure_of_is_found_by_default(images: list[Pixels]) -> None:
    """The same detections from Python as from the command."""
    model = small_model(num_classes=3)
    with torch.no_grad():
        model.class_net.predict.conv_pw.bias.add_(2)
    everything, found = detector(model)(images[0])[0], Predictor(model)(images[0])[0]
    assert 0 < len(found) == int((everything.scores >= SCORE_THRESHOLD).sum()) < len(everything)
    (option,) = (item for item in detect.params if "--score" in item.opts)
    assert option.default == CocoSettings().score == Predictor(model).score_threshold == SCORE_THRESHOLD == 0.3


def test_only_serving_boxes_stay_inside_the_network_input(model: EfficientDet, images: list[Pixels]) -> None:
    found = detector(model, profile="serving")(images[0])[0]  # 90 x 120 in a square
    assert 0 <= found.boxes_xyxy.min() < found.boxes_xyxy.max() <= 120.001
    assert detector(model, profile="official-eval")(images[0])[0].boxes_xyxy.min() < 0


# Batches and files


def test_other_images_and_batch_size_do_not_matter_on_the_cpu(model: EfficientDet, images: list[Pixels]) -> None:
    predictor = detector(model)
    together = predictor(images, batch_size=8)
    columns = map(predictor, images), predictor(images, batch_size=1), predictor(image for image in images)
    for found, alone, one_by_one, lazy in zip(together, *columns, strict=True):
        assert_same(found, alone[0])
        assert_same(found, one_by_one)
        assert_same(found, lazy)
    assert predictor([]) == []


def test_a_batch_gives_the_same_up_to_rounding(model: EfficientDet, images: list[Pixels]) -> None:
    """What a GPU does."""
    predictor = detector(model, profile=HARD)
    pixels, image_scales = predictor.prepare(images)
    batch = predictor.detections(*predictor.engine(pixels), image_scales)
    for found, alone in zip(batch, predictor(images), strict=True):
        np.testing.assert_allclose(found.scores, alone.scores, atol=1e-5)


@pytest.mark.parametrize(("workers", "batch_size"), [(0, 1), (0, 2), (2, 2)])
def test_a_stream_of_files(
    model: EfficientDet, images: list[Pixels], files: list[Path], workers: int, batch_size: int
) -> None:
    files[0].write_bytes(b"damaged")
    predictor = detector(model)
    error, *found = predictor.stream(files, batch_size, workers=workers, apply_exif=False)
    assert isinstance(error, ImageError)
    assert str(error).startswith(f"{files[0]} is not an image")
    for result, pixels in zip(found, images[1:], strict=True):
        assert not isinstance(result, ImageError)
        np.testing.assert_array_equal(result[0], pixels)
        assert_same(result[1], predictor(pixels)[0])


@pytest.mark.parametrize("batch_size", [1, 4])
def test_only_the_images_in_flight_are_in_memory(
    model: EfficientDet, files: list[Path], batch_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch, and the image that the caller still holds."""
    memory = ImageMemory(monkeypatch)
    for number, result in enumerate(detector(model).stream(files * 10, batch_size), start=1):
        assert not isinstance(result, ImageError)
        assert len(memory.alive) == len(memory.counts) - number + 1
    assert len(memory.counts) == 30
    assert max(memory.counts) == batch_size + 1
    kept = list(detector(model).stream(files * 2, batch_size))  # negative control: who keeps them has them
    assert len(kept) == 6 <= len(memory.alive)


@pytest.mark.parametrize(("workers", "batch_size"), [(1, 2), (2, 1)])
def test_workers_read_no_further_ahead(
    model: EfficientDet,
    files: list[Path],
    tmp_path: Path,
    workers: int,
    batch_size: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    log, read = tmp_path / "log", reading.read_image

    def logged(path: str | Path, apply_exif: bool = False) -> Pixels:
        with log.open("ab") as stream:  # seen by all processes
            stream.write(b".")
        return read(path, apply_exif)

    monkeypatch.setattr(reading, "read_image", logged)
    ahead = []
    for number, _ in enumerate(detector(model).stream(files * 10, batch_size, workers=workers), start=1):
        time.sleep(0.02)  # long enough for them to read more, if they did
        ahead.append(log.stat().st_size - number)
    assert len(ahead) == log.stat().st_size == 30
    assert batch_size < max(ahead) < batch_size + reading.AHEAD * workers * batch_size


def test_a_file_is_turned_on_request_and_an_open_picture_is_not(
    model: EfficientDet, images: list[Pixels], files: list[Path]
) -> None:
    predictor, turned = detector(model), np.rot90(images[1], -1)
    (streamed,) = predictor.stream(files[1:2])
    assert not isinstance(streamed, ImageError)
    np.testing.assert_array_equal(streamed[0], turned)
    for found in (streamed[1], predictor(files[1])[0]):
        assert_same(found, predictor(turned)[0])
    with Image.open(files[1]) as picture:
        assert_same(predictor(picture)[0], predictor(images[1])[0])


def test_every_kind_of_image_gives_the_same(model: EfficientDet, images: list[Pixels], files: list[Path]) -> None:
    pixels, predictor = images[0], detector(model)
    expected = predictor(pixels)[0]
    tensor = torch.from_numpy(pixels.copy())
    picture = Image.fromarray(pixels)
    kinds = [files[0], str(files[0]), picture, pixels.transpose(2, 0, 1), tensor, tensor.permute(2, 0, 1)]
    for kind in kinds:
        (alone,) = predictor(kind)
        assert_same(alone, expected)
    for found in [*predictor(kinds), *predictor(torch.stack([tensor, tensor])), *predictor(np.stack([pixels]))]:
        assert_same(found, expected)
    grey = picture.convert("L")
    assert_same(predictor(grey)[0], predictor(grey.convert("RGB"))[0])
    assert len(predictor(np.full((1, 1, 3), 200, np.uint8))) == 1


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((4, 4, 3), np.float32), "dtype float32; expected uint8"),
        (torch.zeros(4, 4, 3), r"dtype torch\.float32; expected uint8"),
        (np.zeros((4, 4), np.uint8), r"shape \(4, 4\); expected RGB"),
        (np.zeros((4, 4, 4), np.uint8), r"shape \(4, 4, 4\); expected RGB"),
        (torch.zeros((3, 0, 4), dtype=torch.uint8), r"shape \(3, 0, 4\); expected RGB"),
        ([None], "an image is of type NoneType; expected a path"),
        ("missing.jpg", r"missing\.jpg: No such file"),
    ],
)
def test_what_is_not_an_image(model: EfficientDet, image: Any, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        detector(model)(image)


# How the network runs


@pytest.mark.parametrize("fused", [True, False])
def test_a_training_model_is_unchanged(images: list[Pixels], fused: bool) -> None:
    model = fresh_model()
    predictor, expected = detector(model, fused=fused), detector(model, fused=fused)(images[0])[0]
    model.train()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    assert_same(predictor(images[0])[0], expected)
    assert model.training == fused  # only a model that runs itself is switched
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())


def test_a_model_in_eval_mode_is_not_switched_again(images: list[Pixels]) -> None:
    model, calls = fresh_model().eval(), list[bool]()
    predictor = detector(model, fused=False)
    model.train = lambda mode=True: calls.append(mode) or EfficientDet.train(model, mode)
    predictor(images[0])
    assert calls == []  # setting a thousand modules takes milliseconds
    model.class_net.predict.train()  # a part alone is noticed
    predictor(images[0])
    assert calls == [False]
    assert not model.class_net.predict.training


class NumpyEngine:
    """Stands for a network in another library."""

    metadata, device = {}, "cpu"

    def __init__(self, model: EfficientDet) -> None:
        self.config, self._run = model.config, TorchEngine(model, torch.device("cpu"))

    def __call__(self, pixels: NDArray[np.float32]) -> tuple[list[NDArray[np.float32]], list[NDArray[np.float32]]]:
        assert isinstance(pixels, np.ndarray)
        logits, deltas = self._run(pixels)
        return [level.numpy() for level in logits], [level.numpy() for level in deltas]


def test_any_engine_takes_the_place_of_the_network(model: EfficientDet, images: list[Pixels]) -> None:
    predictor = detector(NumpyEngine(model))
    for found, expected in zip(predictor(images), detector(model)(images), strict=True):
        assert_same(found, expected)
    assert (predictor.device_type, predictor.config) == ("cpu", model.config)
    with pytest.raises(UsageError, match="an engine has its own device and precision; leave out device, precision"):
        Predictor(NumpyEngine(model), device="cpu", precision="bfloat16")


def test_a_model_that_learns_on_is_fused_again(images: list[Pixels]) -> None:
    model = fresh_model()
    predictor = detector(model, profile=HARD)
    before = predictor(images[0])[0]
    with torch.no_grad():
        model.get_parameter("class_net.predict.conv_pw.bias").add_(0.5)
    assert_same(predictor(images[0])[0], detector(model, profile=HARD)(images[0])[0])
    assert (predictor(images[0])[0].scores > before.scores).all()


def test_hooks_fire_on_the_model_itself(model: EfficientDet, images: list[Pixels]) -> None:
    calls: list[str] = []
    with model.register_forward_hook(lambda *_: calls.append("model")):
        detector(model)(images[0])
        assert not calls
        detector(model, fused=False)(images[0])
    assert calls == ["model"]


@pytest.mark.parametrize(
    ("options", "dtype", "computed", "atol"),
    [
        ({}, torch.float32, torch.float32, 1e-5),
        ({"fused": False}, torch.float32, torch.float32, 1e-5),
        ({"precision": "bfloat16"}, torch.float32, torch.bfloat16, 0.05),
        ({"precision": "float32"}, torch.float64, torch.float32, 1e-5),
        ({}, torch.float64, torch.float64, 1e-5),
    ],
)
def test_precision(
    images: list[Pixels], options: dict[str, Any], dtype: torch.dtype, computed: torch.dtype, atol: float
) -> None:
    expected = detector(fresh_model(), profile=HARD, fused=False)(images[0])[0]
    predictor = detector(fresh_model().to(dtype), profile=HARD, **options)
    assert predictor.engine(torch.zeros(2, 3, 128, 128))[0][0].dtype == computed
    found = predictor(images[0])[0]
    np.testing.assert_allclose(found.scores, expected.scores, atol=atol)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "float8"}, "precision is 'float8'; expected one of model, float32"),
        ({"precision": "float16", "fused": False}, "precision and compiled need fused=True"),
        ({"compiled": True, "fused": False}, "precision and compiled need fused=True"),
    ],
)
def test_options_that_do_not_fit(model: EfficientDet, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        detector(model, **options)


def test_a_batch_is_its_images(model: EfficientDet) -> None:
    """On a CPU the other images of a batch change nothing, to the last bit."""
    engine, batch = detector(model).engine, torch.randn(3, 3, 128, 128)
    whole, single = engine(batch), engine(batch[1:2])
    for head, alone in zip(whole, single, strict=True):
        for level, other in zip(head, alone, strict=True):
            assert torch.equal(level[1:2], other)


def test_the_image_size_can_be_another(model: EfficientDet, images: list[Pixels]) -> None:
    predictor = detector(model, image_size=(96, 160))
    assert predictor.prepare(images)[0].shape == (3, 3, 96, 160)
    assert (predictor.config.image_size, model.config.image_size) == ((96, 160), (128, 128))
    assert detector(model, image_size=160).config.image_size == (160, 160)
    assert not np.array_equal(predictor(images[0])[0].scores, detector(model)(images[0])[0].scores)


def test_a_gpu_keeps_full_precision() -> None:
    """PyTorch's settings can be read and set without a GPU."""
    cudnn = torch.backends.cudnn
    conv = getattr(cudnn, "conv", None)

    def state() -> tuple[object, bool]:
        return (cudnn.allow_tf32 if conv is None else conv.fp32_precision), cudnn.enabled

    before = state()
    assert before in ((True, True), ("tf32", True))  # or the test would show nothing
    with full_float32(torch.device("cpu")):
        assert state() == before
    with full_float32(torch.device("cuda")):
        assert state() in ((False, True), ("ieee", True))
    assert state() == before


def test_every_rank_takes_another_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    current: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    monkeypatch.setattr(torch, "zeros", lambda *_, device: torch.ones(1))  # there is no GPU to try
    for device, rank, expected in (("cuda", 3, "cuda:1"), ("cuda:0", 3, "cuda:0"), ("cuda", None, "cuda")):
        assert usable_device(device, rank) == torch.device(expected)
    assert usable_device("cpu", 3) == torch.device("cpu")
    assert current == [torch.device("cuda:1"), torch.device("cuda:0")]


@pytest.mark.parametrize("device", ["nonsense", "cuda:99", "meta"])
def test_devices_that_cannot_be_used(model: EfficientDet, device: str) -> None:
    with pytest.raises(ConfigError, match=f"the device '{device}' cannot be used"):
        detector(model, device=device)


def test_wrong_settings(model: EfficientDet, images: list[Pixels], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="unknown postprocessing profile 'fast'"):
        detector(model, profile="fast")
    with pytest.raises(ConfigError, match="score_threshold is 30; expected 0 to 1"):
        detector(model, score_threshold=30)
    with pytest.raises(ConfigError, match="batch_size is 0"):
        detector(model)(images, batch_size=0)
    with pytest.raises(ModelFileError, match=r"missing\.pth"):
        detector(tmp_path / "missing.pth")
