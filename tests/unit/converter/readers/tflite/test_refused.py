"""Files that hold something else than the graph of an EfficientDet: one line that says what was found."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from converter.conversion import convert_checkpoint, prepare
from converter.errors import ConversionError, CorruptFileError, UnsupportedSourceError
from converter.locate import open_checkpoint
from effdet_torch.config import EfficientDetConfig
from support.sources import plan_of, seeded, small_config
from support.tflite_files import build, fill, pack, unpack
from support.tflite_graphs import listing_of
from support.tflite_samples import centred_anchors

CONFIG = small_config(image_size=64, num_classes=3, head_repeats=2)
Change = Callable[[schema.SubGraphT, schema.ModelT], object]


def file_of(config: EfficientDetConfig, detects: bool = True, **options: Any) -> bytes:
    listing = listing_of(config, detects)
    return pack(build(listing, fill(listing, seeded(plan_of(config)), centred_anchors(config)), **options))


@pytest.fixture(scope="module")
def whole() -> bytes:
    return file_of(CONFIG)


def tensor(graph: schema.SubGraphT, part: str) -> schema.TensorT:
    return next(tensor for tensor in graph.tensors if part in tensor.name.decode())


def pointwise(graph: schema.SubGraphT, name: str) -> schema.TensorT:
    return next(tensor for tensor in graph.tensors if tensor.name.decode() == name)


def user(graph: schema.SubGraphT, part: str) -> schema.OperatorT:
    index = graph.tensors.index(tensor(graph, part))
    return next(operator for operator in graph.operators if index in list(operator.inputs))


def scale(model: schema.ModelT, found: schema.TensorT, factor: float) -> None:
    buffer = model.buffers[found.buffer]
    values = np.frombuffer(bytes(buffer.data), np.float32).copy()
    values[::2] *= factor
    buffer.data = np.frombuffer(values.tobytes(), np.uint8)


def put(found: Any, **values: Any) -> None:
    for name, value in values.items():
        setattr(found, name, value)


def swap_names(graph: schema.SubGraphT, one: str, other: str) -> None:
    first, second = tensor(graph, one), tensor(graph, other)
    first.name, second.name = second.name, first.name


# What is changed -> what the error says.
CHANGES: dict[str, tuple[Change, str]] = {
    "two names exchanged": (
        lambda graph, _: swap_names(graph, "blocks_5/conv2d/Conv2D", "blocks_6/conv2d/Conv2D"),
        r"at efficientnet-b0/blocks_\d/conv2d, but it is called after efficientnet-b0/blocks_\d/conv2d",
    ),
    "a stride": (
        lambda graph, _: put(user(graph, "class-0/separable_conv2d").builtinOptions, strideW=2, strideH=2),
        "which no EfficientDet has",
    ),
    "a dilation": (
        lambda graph, _: put(user(graph, "blocks_3/depthwise_conv2d").builtinOptions, dilationWFactor=2),
        "which no EfficientDet has",
    ),
    "a stride of the backbone": (
        lambda graph, _: put(user(graph, "blocks_2/depthwise_conv2d").builtinOptions, strideW=2, strideH=2),
        "16 blocks with .* channels: not an EfficientNet",
    ),
    "no blocks": (
        lambda graph, _: put(graph, operators=graph.operators[:1]),
        "a stem of 32 channels, then 0 blocks: not an EfficientNet",
    ),
    "no padding": (
        lambda graph, _: put(
            user(graph, "fnode0/op_after_combine3/conv/separable_conv2d/depthwise").builtinOptions, padding=1
        ),
        "which no EfficientDet has",
    ),
    "a resize with half pixels": (
        lambda graph, _: put(user(graph, "size").builtinOptions, halfPixelCenters=True),
        "RESIZE_NEAREST_NEIGHBOR .* which no EfficientDet has",
    ),
    "a fusion weight": (
        lambda graph, model: scale_all(graph, model, "fnode0/Relu_1/ReadVariableOp", 3),
        "node 0 of cell 0: its factors are not weights that are divided by their sum|negative weight",
    ),
    "no fusion weight": (
        lambda graph, _: bypass(graph, "cell_0/fnode1/Relu_1/ReadVariableOp"),
        "node 1 of cell 0: an input without a weight, which no convolution before it can hold",
    ),
    "weights for other channels": (
        lambda graph, model: widen(graph, model, "cell_0/fnode1/Relu_1/ReadVariableOp", 3),
        "node 1 of cell 0: factors for 3 and 8 channels",
    ),
    "an input too many": (
        lambda graph, _: put(user(graph, "cell_0/fnode1/truediv"), inputs=[0, 1]),
        "not an EfficientDet that can be read",
    ),
    "a bias before a batch norm": (
        lambda graph, model: scale_all(
            graph, model, "fnode0/op_after_combine3/conv/separable_conv2d/depthwise/bias", None
        ),
        "has a bias, where an EfficientDet has none",
    ),
    "a level's depthwise kernel": (
        lambda graph, model: scale(model, tensor(graph, "class-1/separable_conv2d_1/depthwise"), 1.5),
        "an EfficientDet's levels share the convolutions of the heads",
    ),
    "a level's prediction": (
        lambda graph, model: scale(model, tensor(graph, "box-predict/separable_conv2d_2/bias"), 1.5),
        "an EfficientDet's levels share the convolutions of the heads",
    ),
    "a level's pointwise kernel": (
        lambda graph, model: scale(model, pointwise(graph, "class_net/class-1/separable_conv2d_2"), 1.5),
        "is not that of the finest level times a factor for each channel",
    ),
    "an anchor": (
        lambda graph, model: scale(model, tensor(graph, "stack"), 1.01),
        "anchors are not those of any anchor_scale, aspect_ratios and num_scales: .* 0.01",
    ),
    "an activation": (
        lambda graph, _: put(user(graph, "class-1/separable_conv2d_1/bias").builtinOptions, fusedActivationFunction=3),
        "1 heads at level 4; expected two",
    ),
    "a kernel of int4": (
        lambda graph, _: put(tensor(graph, "stem/conv2d/Conv2D"), type=schema.TensorType.INT4),
        "is stored as int4",
    ),
    "an addition as a product": (
        lambda graph, model: put(model.operatorCodes[kind(model, "ADD")], builtinCode=18, deprecatedBuiltinCode=18),
        "not an EfficientDet that can be read",
    ),
    "names of a MobileNet": (
        lambda graph, _: put(graph.tensors[5], name="FeatureExtractor/MobilenetV2/expanded_conv/BoxPredictor_0"),
        "by its names .* it is a MobileNet SSD",
    ),
    "compiled for an Edge TPU": (
        lambda graph, model: put(model.operatorCodes[kind(model, "CUSTOM")], customCode="edgetpu-custom-op"),
        "compiled for an Edge TPU: its weights .* cannot be read; convert the file that went into",
    ),
    "the box coder of the TF Object Detection API": (
        lambda graph, _: set_option(graph, "y_scale", 10.0),
        r"divides boxes by 10 \(y_scale\): the box coder of the TF Object Detection API",
    ),
    "other classes": (lambda graph, _: set_option(graph, "num_classes", 5), "has 5 classes, the class head 3"),
}


def widen(graph: schema.SubGraphT, model: schema.ModelT, part: str, count: int) -> None:
    found = tensor(graph, part)
    found.shape = [count]
    model.buffers[found.buffer].data = np.frombuffer(np.ones(count, np.float32).tobytes(), np.uint8)


def bypass(graph: schema.SubGraphT, part: str) -> None:
    """Give a sum one of its inputs without the two products before it."""
    weight = user(graph, part)
    total = next(operator for operator in graph.operators if weight.outputs[0] in list(operator.inputs))
    for operator in graph.operators:
        inputs = list(operator.inputs)
        operator.inputs = [weight.inputs[0] if index == total.outputs[0] else index for index in inputs]


def kind(model: schema.ModelT, name: str) -> int:
    return [code.builtinCode for code in model.operatorCodes].index(getattr(schema.BuiltinOperator, name))


def scale_all(graph: schema.SubGraphT, model: schema.ModelT, part: str, factor: float | None) -> None:
    buffer = model.buffers[tensor(graph, part).buffer]
    values = np.frombuffer(bytes(buffer.data), np.float32)
    changed = np.ones_like(values) if factor is None else (np.abs(values) + 1) * np.float32(factor)
    buffer.data = np.frombuffer(changed.tobytes(), np.uint8)


def set_option(graph: schema.SubGraphT, name: str, value: float) -> None:
    from flatbuffers import flexbuffers

    operator = graph.operators[-1]
    options = flexbuffers.Loads(bytes(operator.customOptions)) | {name: value}
    operator.customOptions = np.frombuffer(bytes(flexbuffers.Dumps(options)), np.uint8)


def changed(whole: bytes, change: Change, path: Path) -> Path:
    model = unpack(whole)
    change(model.subgraphs[0], model)
    path.write_bytes(pack(model))
    return path


def convert(path: Path) -> None:
    with open_checkpoint(path) as source:
        convert_checkpoint(prepare(source), path.with_suffix(".pth"))


def test_unchanged(whole: bytes, tmp_path: Path) -> None:
    convert(changed(whole, lambda *_: None, tmp_path / "m.tflite"))
    assert (tmp_path / "m.pth").is_file()


@pytest.mark.parametrize("name", CHANGES)
def test_what_is_not_official_is_refused(name: str, whole: bytes, tmp_path: Path) -> None:
    change, words = CHANGES[name]
    with pytest.raises(ConversionError, match=words) as caught:
        convert(changed(whole, change, tmp_path / "m.tflite"))
    assert "m.tflite" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "m.pth").exists()


def test_another_version_of_the_schema(whole: bytes, tmp_path: Path) -> None:
    path = changed(whole, lambda _, model: put(model, version=4), tmp_path / "m.tflite")
    with pytest.raises(CorruptFileError, match="version 4 of the schema; expected 3"):
        open_checkpoint(path)


def test_a_truncated_file(whole: bytes, tmp_path: Path) -> None:
    for size in (0, 8, 20, 1000, len(whole) // 2, len(whole) - 10):
        (tmp_path / "m.tflite").write_bytes(whole[:size])
        with pytest.raises((CorruptFileError, UnsupportedSourceError), match=r"m\.tflite"):
            convert(tmp_path / "m.tflite")


def test_heads_that_nothing_tells_apart(tmp_path: Path) -> None:
    """Four classes: both heads predict 36 channels. Without names, operation and signature, nobody knows."""
    config = small_config(image_size=64, num_classes=4)
    data = file_of(config, detects=False, rename=lambda index, _: f"t{index}")
    named = changed(data, lambda *_: None, tmp_path / "named.tflite")
    with open_checkpoint(named) as source:
        assert source.variables["class_net/class-predict/bias"].shape == (36,)
    path = changed(data, lambda _, model: put(model, signatureDefs=[]), tmp_path / "m.tflite")
    with pytest.raises(UnsupportedSourceError, match=r"heads with 36 and 36 channels, .* tell which of them"):
        open_checkpoint(path)
    config = small_config(image_size=64, num_classes=5)  # then nine anchors are assumed, and that is said
    data = file_of(config, detects=False, rename=lambda index, _: f"t{index}")
    path = changed(data, lambda _, model: put(model, signatureDefs=[]), tmp_path / "m.tflite")
    with open_checkpoint(path) as source:
        assert any(re.search("told apart by assuming 9 anchors", note) for note in source.facts.notes)
        assert source.variables["class_net/class-predict/bias"].shape == (45,)
