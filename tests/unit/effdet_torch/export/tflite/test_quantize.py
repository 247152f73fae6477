"""int8 files: close to the model on what they were calibrated on, and a mistake in them is found."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from effdet_torch.config import get_config
from effdet_torch.engines.document import Interface
from effdet_torch.errors import ConfigError, EffdetError, UsageError
from effdet_torch.export.comparison.outputs import rms_error
from effdet_torch.export.export import export_model
from effdet_torch.export.tflite import quantize
from effdet_torch.export.tflite.build.network import build_graph
from effdet_torch.export.tflite.calibrate import calibrate
from effdet_torch.export.tflite.graph import Graph, Operation, Quantization, Tensor
from effdet_torch.export.tflite.scales import of_pixels
from effdet_torch.network.model import EfficientDet
from support.networks import alive
from support.sources import small_config

CONFIG = get_config("lite0", image_size=128, num_classes=3, fpn_channels=16, fpn_cells=1)
FLOAT = np.dtype(np.float32)


@pytest.fixture(scope="module")
def model() -> EfficientDet:
    """As it starts a training: networks of `alive` enlarge every rounding."""
    torch.manual_seed(0)
    model = EfficientDet(CONFIG).eval()
    with torch.no_grad():
        model.get_parameter("class_net.predict.conv_pw.weight").normal_(std=0.3)  # scores that differ
    return model


def noise(count: int = 3) -> list[NDArray[np.float32]]:
    """Images (1, 3, H, W) of whole pixel values, normalised."""
    pixels = np.random.default_rng(0).integers(0, 256, (count, 1, 3, 128, 128))
    return list(((pixels - 127) / 128).astype(np.float32))


def float_graph(model: EfficientDet) -> Graph:
    return build_graph(model, model.config, Interface(image_size=model.config.image_size))


@pytest.mark.parametrize("nms", ["none", "hard"])
def test_the_file_is_close_to_the_model(model: EfficientDet, tmp_path: Path, nms: Any) -> None:
    done = export_model(model, tmp_path / "a.tflite", precision="int8", nms=nms, calibration=noise())
    assert done.checked is not None
    assert 0 < done.checked.error < done.checked.limit
    assert done.document.metadata["calibrated_on"] == 3
    assert done.document.interface.pixels == "uint8"


@pytest.mark.parametrize("nms", ["none", "hard"])
def test_a_wrong_scale_is_found(model: EfficientDet, tmp_path: Path, nms: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control: LiteRT takes a bias to have the scale of the input times that of the kernel."""
    real = quantize.of_bias

    def wrong(input_scale: np.float32, kernel: Quantization) -> Quantization:
        right = real(input_scale, kernel)
        return Quantization(right.scales / 4, right.zero_points)

    monkeypatch.setattr(quantize, "of_bias", wrong)
    with pytest.raises(
        EffdetError, match=r"the exported file is wrong: .* nothing was kept\. Calibrate with more photos"
    ):
        export_model(model, tmp_path / "a.tflite", precision="int8", nms=nms, calibration=noise())
    assert not list(tmp_path.iterdir())


def test_the_errors_of_an_output_count_together() -> None:
    exact = np.ones((1, 4), np.float32)
    assert rms_error(exact + np.float32([1, 0, 0, 0]), exact) == pytest.approx(0.5)
    assert rms_error(exact[:, :3], exact) == rms_error(exact * np.nan, exact) == float("inf")


def test_structure(model: EfficientDet) -> None:
    graph = float_graph(model)
    found = quantize.quantize(graph, calibrate(graph, moved(noise(1))), of_pixels(CONFIG))
    kinds = Counter(operation.kind for operation in graph.operations)
    assert Counter(operation.kind for operation in found.operations) == kinds + Counter(QUANTIZE=1, DEQUANTIZE=10)
    assert [x.dtype for x in (*found.inputs.values(), *found.outputs)] == [np.dtype(np.uint8), *[FLOAT] * 10]
    assert [x.name for x in found.outputs] == [x.name for x in graph.outputs]
    names = Counter(tensor.name for tensor in found.tensors())
    assert set(names.values()) == {1}
    kernels = {op.inputs[1] for op in found.operations if op.kind == "DEPTHWISE_CONV_2D"}
    uses = sum(op.kind == "DEPTHWISE_CONV_2D" for op in found.operations)
    assert len(kernels) < uses  # levels share a kernel
    biases = {op.inputs[2] for op in found.operations if op.kind == "DEPTHWISE_CONV_2D"}
    assert len(biases) == uses  # and not its bias, whose scale is that of the level's input


def moved(images: list[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
    return [image.transpose(0, 2, 3, 1) for image in images]


def test_ranges_are_those_of_every_tensor() -> None:
    """The first input of a sum keeps its own range, although the interpreter could overwrite it."""
    names = ("image", "doubled", "total")
    x = {name: Tensor(name, (1, 2, 2, 1), FLOAT) for name in names}
    ten = Tensor.constant("ten", np.full((1, 2, 2, 1), 10, np.float32))
    operations = [
        Operation("ADD", (x["image"], x["image"]), (x["doubled"],)),
        Operation("ADD", (x["doubled"], ten), (x["total"],)),
    ]
    graph = Graph({"images": x["image"]}, [x["total"]], ["output_0"], operations, "predict")
    images = [np.float32(values).reshape(1, 2, 2, 1) for values in ([0, 1, 2, 3], [-1, 0, 0, 1])]
    found = calibrate(graph, images)
    assert {tensor.name: ends for tensor, ends in found.items()} == {"doubled": (-2.0, 6.0), "total": (8.0, 16.0)}


def test_what_cannot_be_measured_is_refused(model: EfficientDet) -> None:
    with pytest.raises(EffdetError, match="there are no images to calibrate with"):
        calibrate(float_graph(model), [])
    with pytest.raises(EffdetError, match="is not finite for an image to calibrate with"):
        calibrate(float_graph(model), moved([noise(1)[0] * np.nan]))


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (
            {},
            "int8 is written for the lite variants, .* this network has MEAN, MUL as well",
        ),
        ({"activation": "hswish", "fusion": "sum"}, "HARD_SWISH"),
    ],
)
def test_other_networks_are_refused_before_images_are_read(config: dict[str, Any], said: str, tmp_path: Path) -> None:
    class Unread(list[Any]):
        def __iter__(self) -> Any:
            raise AssertionError("read")

    other = alive(EfficientDet(small_config(image_size=128, num_classes=3, **config))).float().eval()
    with pytest.raises(ConfigError, match=said):
        export_model(other, tmp_path / "a.tflite", precision="int8", calibration=Unread([1]), check=False)


def test_images_without_content_are_warned_of(
    model: EfficientDet, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Their file agrees with the model on them, and finds nothing in photos."""
    grey = [np.full((1, 3, 128, 128), 1 / 128, np.float32)] * 200
    for images, is_warned in ((grey, True), (noise(1), False)):
        caplog.clear()
        export_model(model, tmp_path / "a.tflite", precision="int8", nms="none", calibration=images)
        assert ("the images to calibrate with have little content" in caplog.text) == is_warned


@pytest.mark.parametrize(
    ("images", "said"),
    [
        ([*noise(1), np.zeros((1, 3, 64, 64), np.float32)], r"image 1 of calibration is float32 \(1, 3, 64, 64\)"),
        (np.zeros((2, 3, 128, 128), np.float32), r"image 0 of calibration is float32 \(3, 128, 128\)"),
        (moved(noise(1)), r"image 0 of calibration is float32 \(1, 128, 128, 3\)"),
        ([noise(1)[0].astype(np.float64)], r"image 0 of calibration is float64 \(1, 3, 128, 128\)"),
        ([torch.zeros(1, 3, 128, 128)], "image 0 of calibration is of type Tensor"),
        ("photos", "image 0 of calibration is of type str"),
    ],
    ids=range(6),
)
def test_other_images_than_the_network_takes_are_refused(
    model: EfficientDet, tmp_path: Path, images: Any, said: str
) -> None:
    with pytest.raises(UsageError, match=rf"{said}; expected an array of float32 \(1, 3, 128, 128\)"):
        export_model(model, tmp_path / "a.tflite", precision="int8", calibration=images)


@pytest.mark.parametrize(
    ("name", "settings", "error", "said"),
    [
        ("a.tflite", {"precision": "int8"}, UsageError, "int8 needs images to measure .*: pass --calibrate PHOTOS"),
        (
            "a.tflite",
            {"precision": "int8", "calibration": None},
            UsageError,
            "calibration is of type NoneType; expected",
        ),
        ("a.tflite", {"calibration": [1]}, UsageError, "no effect in float32; pass --int8, or leave out --calibrate"),
        (
            "a.tflite",
            {"precision": "int8", "calibration": [1], "pixels": "normalized"},
            ConfigError,
            "takes bytes in int8, .* leave out --input normalized",
        ),
        (
            "a.onnx",
            {"precision": "int8", "calibration": [1]},
            ConfigError,
            "onnx is written in float32 or float16, not",
        ),
    ],
)
def test_settings_that_do_not_fit_are_refused(
    model: EfficientDet, tmp_path: Path, name: str, settings: dict[str, Any], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        export_model(model, tmp_path / name, **settings)
