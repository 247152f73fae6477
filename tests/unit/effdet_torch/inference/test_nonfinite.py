"""NaN and infinity out of a network: refused by name, never an empty result."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from effdet_torch import Predictor, save_model
from effdet_torch.commands.detect import detect
from effdet_torch.engines.document import Interface, make_document, plain_profile
from effdet_torch.engines.file_engine import FileEngine
from effdet_torch.errors import NonFiniteOutputError
from effdet_torch.inference.images import ImageError
from effdet_torch.integrations.torchvision_detector import as_torchvision
from effdet_torch.network.model import EfficientDet
from effdet_torch.processing.profiles import PROFILES
from support.coco_samples import small_model
from support.networks import alive
from support.sources import small_config

Numbers = np.ndarray
WEIGHT = "box_net.predict.conv_pw.weight"


def fresh_model(**options: Any) -> EfficientDet:
    return small_model(num_classes=3, image_size=(128, 128), **options)


def damaged_model(key: str = WEIGHT, value: float = np.nan) -> EfficientDet:
    model = fresh_model()
    model.state_dict()[key].view(-1)[0] = value
    return model


def pictures(count: int = 3) -> list[Numbers]:
    return list(np.random.default_rng(0).integers(0, 256, (count, 60, 50, 3), dtype=np.uint8))


class Engine:
    """Runs a network, and writes a value into the outputs for images whose first pixel is black."""

    metadata: ClassVar[dict[str, Any]] = {}
    device = "cpu"

    def __init__(self, model: EfficientDet, head: int = 0, value: float = np.nan) -> None:
        self.config, self._predictor, self._head, self._value = model.config, Predictor(model), head, value

    def __call__(self, pixels: Numbers) -> tuple[list[Numbers], list[Numbers]]:
        outputs = tuple([level.numpy().copy() for level in head] for head in self._predictor.engine(pixels))
        if pixels[0, 0, 0, 0] == pixels[0, 0].min():
            outputs[self._head][1][:] = self._value
        return outputs


class Broken(FileEngine):
    """An exported file that returns values of its own."""

    def __init__(self, returned: list[Numbers], **interface: Any) -> None:
        document = make_document(fresh_model().config, Interface(**interface), {}, {})
        super().__init__(Path("d0.onnx"), document)
        self.runtime, self._returned = "a runtime", returned

    def _run(self, pixels: Numbers) -> list[Numbers]:
        return self._returned


def detections(**changed: float) -> list[Numbers]:
    box = np.array([[[1, 2, 30, 40], [0, 0, 0, 0]]], np.float32)
    outputs = {"boxes": box, "scores": np.array([[0.9, 0.0]], np.float32)}
    for name, value in changed.items():
        outputs[name][0, 0] = value
    return [*outputs.values(), np.array([[1, 0]]), np.array([1])]


def test_weights_with_nan_are_named() -> None:
    expected = rf"image 1: .*box_3 \d+ of 9216 values, .* \(1 found: {WEIGHT}: 1 of \d+ values are not finite\)"
    with pytest.raises(NonFiniteOutputError, match=expected):
        Predictor(damaged_model())(pictures())
    assert len(Predictor(fresh_model(), score_threshold=0)(pictures())[0]) == 100  # negative control


@pytest.mark.parametrize("profile", ["official-eval", "serving"])
@pytest.mark.parametrize(
    "key", [WEIGHT, "class_net.predict.conv_pw.weight", "class_net.predict.conv_pw.bias", "backbone.conv_stem.weight"]
)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_no_layer_with_nan_or_infinity_is_silent(profile: str, key: str, value: float) -> None:
    with pytest.raises(NonFiniteOutputError, match=key):
        Predictor(damaged_model(key, value), profile=profile)(pictures(1))


def test_a_class_that_is_switched_off_is_no_fault() -> None:
    model = fresh_model()
    model.class_net.predict.conv_pw.bias.data[0::3] = -np.inf  # type: ignore[union-attr, index]
    (found,) = Predictor(model, score_threshold=0)(pictures(1))
    assert len(found) == 100
    assert set(found.category_ids) == {2, 3}
    model.class_net.predict.conv_pw.bias.data[:] = -np.inf  # type: ignore[union-attr, index]
    with pytest.raises(NonFiniteOutputError, match=r"class_3 .* class_4 .* class_5"):
        Predictor(model)(pictures(1))


def test_values_too_large_for_float16() -> None:
    model = fresh_model()
    for weight in model.class_net.parameters():  # type: ignore[union-attr]
        weight.data *= 1e4
    with pytest.raises(NonFiniteOutputError, match=r'65504: pass precision="float32"'):
        Predictor(model, precision="float16")(pictures(1))
    with pytest.raises(NonFiniteOutputError, match=r'65504: pass precision="float32", and a model in float32'):
        Predictor(model.half())(pictures(1))
    for weight in model.float().class_net.parameters():  # type: ignore[union-attr]
        weight.data *= 1e14
    with pytest.raises(NonFiniteOutputError, match="all its weights are finite, so values grow without end"):
        Predictor(model)(pictures(1))


@pytest.mark.parametrize("head", [0, 1])
def test_the_image_is_named(head: int, tmp_path: Path) -> None:
    images = pictures(4)
    for image in images:
        image[0, 0] = 255
    images[2][0, 0] = 0
    paths = [tmp_path / f"{number}.png" for number in range(4)]
    for path, image in zip(paths, images, strict=True):
        Image.fromarray(image).save(path)
    predictor = Predictor(Engine(fresh_model(), head))
    with pytest.raises(NonFiniteOutputError, match=f"no result for image 3: .*{('class', 'box')[head]}_4"):
        predictor(images)
    with pytest.raises(NonFiniteOutputError, match=r"no result for \S+2\.png: .*; look at what runs the network"):
        predictor(paths)
    paths[1].write_bytes(b"not an image")  # it takes a place in the batch, and none among the images
    for apply_exif in (True, False):
        found = predictor.stream(paths, batch_size=4, apply_exif=apply_exif)
        with pytest.raises(NonFiniteOutputError, match=r"no result for \S+2\.png"):
            list(found)
    found = predictor.stream(paths, batch_size=1)
    kinds = [type(next(found)), type(next(found))]
    assert kinds == [tuple, ImageError]
    with pytest.raises(NonFiniteOutputError, match=r"no result for \S+2\.png"):
        next(found)
    assert len(list(predictor.stream([paths[0], paths[3]]))) == 2  # negative control


@pytest.mark.parametrize(("changed", "output"), [({"boxes": np.nan}, "boxes 4"), ({"scores": np.inf}, "scores 1")])
def test_detections_of_a_file(changed: dict[str, float], output: str) -> None:
    profile = plain_profile(PROFILES["serving"])
    options = {"outputs": "detections", "image_size": (128, 128), "profile": profile}
    with pytest.raises(
        NonFiniteOutputError, match=rf"{output} of .*; d0.onnx may be damaged: .*effdet-verify d0\.onnx"
    ):
        Predictor(Broken(detections(**changed), **options))(pictures(1))
    assert len(Predictor(Broken(detections(), **options))(pictures(1))[0]) == 1  # negative control


def test_a_file_in_float16() -> None:
    config = fresh_model().config
    shapes = [
        (1, config.anchors_per_location * per_anchor, *config.feature_sizes()[level])
        for per_anchor in (config.num_classes, 4)
        for level in config.levels
    ]
    outputs = [np.full(shape, np.nan, np.float32) for shape in shapes]
    engine = Broken(outputs, precision="float16")
    with pytest.raises(NonFiniteOutputError, match="65504: export the model again with --precision float32"):
        Predictor(engine)(pictures(1))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_masks(value: float) -> None:
    heads = ("object_detection", "segmentation")
    model = alive(EfficientDet(small_config(heads=heads, image_size=(64, 96), seg_num_classes=4)))
    assert Predictor(model)(pictures(1))[0].mask is not None
    model.seg_head.predict.bias.data[1] = value  # type: ignore[union-attr, union-attr]
    with pytest.raises(NonFiniteOutputError, match=r"segmentation \d+ of .*seg_head\.predict\.bias: 1 of 4 values"):
        Predictor(model)(pictures(2))
    model.seg_head.predict.bias.data[1] = -np.inf  # type: ignore[union-attr]
    (found,) = Predictor(model)(pictures(1))
    assert found.mask is not None
    assert 1 not in found.mask


def test_the_contract_of_torchvision() -> None:
    detector = as_torchvision(damaged_model(), score_threshold=0)
    with pytest.raises(NonFiniteOutputError, match=f"image 1: the network returned NaN or infinity; .*{WEIGHT}"):
        detector([torch.zeros(3, 60, 50)])
    detector = as_torchvision(fresh_model(), score_threshold=0)
    assert len(detector([torch.zeros(3, 60, 50)])[0]["scores"])


def test_the_command(tmp_path: Path) -> None:
    model = fresh_model()
    for weight in model.class_net.parameters():  # type: ignore[union-attr]
        weight.data *= 1e20
    save_model(model, tmp_path / "model.pth")
    Image.fromarray(pictures(1)[0]).save(tmp_path / "photo.png")
    done = CliRunner().invoke(detect, [str(tmp_path / "model.pth"), str(tmp_path / "photo.png")])
    assert done.exit_code == 1
    assert "photo.png: the network returned NaN or infinity" in " ".join(done.stderr.split())
    assert "photo.png" not in done.stdout
