"""The segmentation head against the official code: every layer, both copies of the variables, and the way back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from converter.conversion import convert_checkpoint, prepare
from converter.locate import open_checkpoint
from converter.writers.targets import TARGETS
from effdet_torch.config import EfficientDetConfig, get_config
from effdet_torch.network.model import EfficientDet
from effdet_torch.network.segmentation import TransposedConv
from support.golden import Golden, error_over_rms, load_golden
from support.official_cases import drawn
from support.reference import built_in
from support.sources import averages, converted, plan_of, small_config, write_checkpoint
from support.sources import seeded as seeded_values
from support.variable_shapes import random_variables
from verify.report.content.verdict import headline
from verify.verification import Settings, verify_model

EXACT = 1e-11  # of rms, in float64; the worst measured is 1e-14
BOTH = ("object_detection", "segmentation")
CONFIG = get_config("d0", image_size=256, heads=BOTH)
SMALL = small_config(heads=BOTH, image_size=(64, 96), seg_num_classes=4)
Arrays = dict[str, NDArray[Any]]


@pytest.fixture(params=["ema", "raw"])
def view(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def variables(shared: Path, seeded: ModuleType, view: str) -> Arrays:
    sources = shared / "reference" / "sources"
    return drawn(sources, seeded, sources / "segmentation" / "d0_seg_variables.tsv", view)


@pytest.fixture
def golden(shared: Path, view: str) -> tuple[Golden, NDArray[Any]]:
    """The sampled arrays, and the whole output of the segmentation head."""
    path = shared / "reference" / "sources" / "segmentation" / f"d0_seg_{view}_rand_256_f64.npz"
    with np.load(path, allow_pickle=False) as arrays:
        return load_golden(path), arrays["seg"]


def build(config: EfficientDetConfig, variables: Arrays) -> EfficientDet:
    tensors = converted(plan_of(config), variables, dtype=np.float64)
    model = EfficientDet(config).double().eval()
    model.load_state_dict({key: torch.from_numpy(np.array(array)) for key, array in tensors.items()})
    return model


def nhwc(tensor: Tensor) -> NDArray[Any]:
    return tensor.permute(0, 2, 3, 1).numpy()


def layers_of(model: EfficientDet, images: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """Return {name in the golden file: array}."""
    found, levels = dict[str, NDArray[Any]](), model.config.levels

    def keep(name: str) -> Callable[[nn.Module, Any, Any], None]:
        return lambda _module, _inputs, output: found.update({name: nhwc(output.clone())})

    assert model.seg_head is not None
    for step in range(len(levels) - 1):
        model.seg_head.conv_rep[step].register_forward_hook(keep(f"deconv_{step}"))
        model.seg_head.bn_rep[step].register_forward_hook(keep(f"bn_{step}"))
    model.fpn.register_forward_hook(
        lambda _module, _inputs, outputs: found.update(
            {f"fpn_{level}": nhwc(output.clone()) for level, output in zip(levels, outputs, strict=True)}
        )
    )
    with torch.inference_mode():
        classes, boxes, mask = model(torch.tensor(images).permute(0, 3, 1, 2).double())
    for level, class_logits, box_deltas in zip(levels, classes, boxes, strict=True):
        found |= {f"class_{level}": nhwc(class_logits), f"box_{level}": nhwc(box_deltas)}
    return {**found, "seg": nhwc(mask)}


def test_every_layer_equals_the_official_one(
    variables: Arrays, golden: tuple[Golden, NDArray[Any]], seeded: ModuleType
) -> None:
    sampled, mask = golden
    found = layers_of(build(CONFIG, variables), seeded.random_input(256, 256))
    assert found.keys() == {*sampled.samples, "seg"}
    # The official `bn_N` is before the activation, ours includes it.
    activated = {f"bn_{step}" for step in range(4)}
    for name in found.keys() - activated - {"seg"}:
        assert sampled.compare(name, found[name]) < EXACT, name
    for name in activated:
        shape, index, value = sampled.samples[name]
        assert found[name].shape == shape
        assert error_over_rms(found[name].reshape(-1)[index], value / (1 + np.exp(-value))) < EXACT
    assert error_over_rms(found["seg"], mask) < EXACT


def test_the_reference_equals_the_official_code(
    variables: Arrays, golden: tuple[Golden, NDArray[Any]], seeded: ModuleType
) -> None:
    pytest.importorskip("tensorflow")
    sampled, mask = golden
    found = built_in(CONFIG, variables, "float64").run(seeded.random_input(256, 256).astype(np.float64))
    for step in range(4):
        assert sampled.compare(f"bn_{step}", found[f"segmentation_head/bn_{step}", None]) < EXACT
    transposed = ["conv2d_transpose", *(f"conv2d_transpose_{step}" for step in range(1, 5))]
    arrays = [found[f"segmentation_head/{name}", None] for name in transposed]
    assert max(sampled.compare(f"deconv_{step}", array) for step, array in enumerate(arrays[:-1])) < EXACT
    assert error_over_rms(arrays[-1], mask) < EXACT


def usual_guess(self: TransposedConv, features: Tensor) -> Tensor:
    return F.conv_transpose2d(features, self.weight, self.bias, self.stride, padding=1, output_padding=1)


@pytest.mark.parametrize("view", ["ema"], indirect=True)
def test_negative_control_the_usual_padding(
    variables: Arrays, golden: tuple[Golden, NDArray[Any]], seeded: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TransposedConv, "forward", usual_guess)
    found = layers_of(build(CONFIG, variables), seeded.random_input(256, 256))
    assert error_over_rms(found["seg"], golden[1]) > 1
    assert golden[0].compare("class_3", found["class_3"]) < EXACT


def checkpoint(folder: Path, config: EfficientDetConfig) -> Path:
    plan = plan_of(config)
    folder.mkdir()
    write_checkpoint(folder / "model.ckpt-7", {**seeded_values(plan), **averages(seeded_values(plan, 1))})
    return folder


def convert(source: Path, out: Path, to: str = "pth", config: EfficientDetConfig = SMALL) -> Path:
    height, width = config.image_size
    with open_checkpoint(source) as opened:
        convert_checkpoint(prepare(opened, hparams=f"image_size={width}x{height}"), out, target=TARGETS[to])
    return out


def read(path: Path) -> Iterator[tuple[str, bytes]]:
    with open_checkpoint(path) as source:
        yield from ((name, source.read(name).tobytes()) for name in source.variables if "segmentation_head/" in name)


@pytest.mark.parametrize("heads", [BOTH, ("segmentation",)])
@pytest.mark.parametrize("to", ["h5", "tf1"])
def test_the_way_back_is_bitwise_the_original(heads: tuple[str, ...], to: str, tmp_path: Path) -> None:
    config = replace(SMALL, heads=heads)
    start = checkpoint(tmp_path / "start", config)
    model = convert(start, tmp_path / "model.pth", config=config)
    back = convert(model, tmp_path / f"back.{to}", to, config)
    expected = seeded_values(plan_of(config), 1)
    found = {name: array for name, array in read(back) if not name.endswith("ExponentialMovingAverage")}
    assert found == {name: array.tobytes() for name, array in expected.items() if "segmentation_head/" in name}
    assert len(found) == 2 + 5 * 2
    again = convert(back, tmp_path / "again.pth", config=config)
    states = [torch.load(path, weights_only=True)["state_dict"] for path in (model, again)]
    assert all(torch.equal(tensor, states[1][key]) for key, tensor in states[0].items())


def test_a_wrong_padding_fails_and_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorflow")
    start = checkpoint(tmp_path / "start", SMALL)
    model = convert(start, tmp_path / "model.pth")
    settings = Settings(image_size=(64, 64), dtypes=("float64",), modes=("isolated", "cumulative"), graph=False)
    with open_checkpoint(start) as source:
        right = verify_model(model, source, settings)
        monkeypatch.setattr(TransposedConv, "forward", usual_guess)
        wrong = verify_model(model, source, settings)
    assert right.passed
    assert [layer.torch for layer in right.outputs][-1] == "seg_head.predict"
    assert not wrong.passed
    assert {layer.torch for layer in wrong.failures if layer.mode == "isolated"} == {
        *("seg_head.conv_rep.0", "seg_head.conv_rep.1", "seg_head.predict")
    }
    assert "padding=1, output_padding=1 instead of TensorFlow's SAME" in str(wrong.diagnoses)


class KerasHead:
    """The official head's layers, by their attributes: Keras saves and loads variables in this order."""

    def __new__(cls, keras: Any, channels: int, steps: int, classes: int) -> Any:
        class SegmentationHead(keras.layers.Layer):  # type: ignore[misc, name-defined]
            def __init__(self) -> None:
                super().__init__(name="segmentation_head")
                transposed = {"strides": 2, "padding": "same"}
                self.con2d_ts, self.con2d_t_bns = [], []
                for step in range(steps):
                    self.con2d_ts.append(keras.layers.Conv2DTranspose(channels, 3, use_bias=False, **transposed))
                    self.con2d_t_bns.append(keras.layers.BatchNormalization(epsilon=1e-3, name=f"bn_{step}"))
                self.head_transpose = keras.layers.Conv2DTranspose(classes, 3, **transposed)

            def call(self, features: list[Any]) -> Any:
                x = features[-1]
                for step, finer in enumerate(features[-2::-1]):
                    x = keras.activations.swish(self.con2d_t_bns[step](self.con2d_ts[step](x)))
                    x = keras.layers.concatenate([x, finer])
                return self.head_transpose(x)

        return SegmentationHead()


@pytest.mark.filterwarnings("ignore")  # of Keras, that the file format is old
def test_keras_loads_and_computes_it(tmp_path: Path) -> None:
    from converter.writers.keras_h5 import keras_layers, write_keras_h5
    from converter.writers.specs import TensorSpec

    keras = pytest.importorskip("tf_keras")
    plan = plan_of(SMALL).within("segmentation_head")
    values = seeded_values(plan)
    specs = {name: TensorSpec(array.dtype, array.shape) for name, array in values.items()}
    with (tmp_path / "head.h5").open("w+b") as stream:
        write_keras_h5(stream, keras_layers(plan), specs, values.items(), None)
    sides, channels = (8, 4, 2), SMALL.fpn_channels
    generator = np.random.default_rng(0)
    features = [generator.normal(size=(1, side, side, channels)).astype(np.float32) for side in sides]
    for _ in range(2):  # the second model's convolutions have other numbers
        inputs = [keras.Input(array.shape[1:]) for array in features]
        model = keras.Model(inputs, KerasHead(keras, channels, len(sides) - 1, SMALL.seg_num_classes)(inputs))
    model.load_weights(tmp_path / "head.h5")
    ours = EfficientDet(SMALL).eval()
    ours.load_state_dict(
        {key: torch.from_numpy(np.array(array)) for key, array in converted(plan, values).items()}, strict=False
    )
    assert ours.seg_head is not None
    with torch.inference_mode():
        found = ours.seg_head([torch.from_numpy(array).permute(0, 3, 1, 2) for array in features])
    assert error_over_rms(nhwc(found), np.asarray(model(features))) < 1e-5

    model.save_weights(tmp_path / "again.h5")
    with open_checkpoint(tmp_path / "again.h5") as source:
        named = {name.removesuffix(":0"): source.read(name).tobytes() for name in source.variables}
    assert named == {name: array.tobytes() for name, array in values.items()}


def test_outputs_by_heads() -> None:
    images = torch.randn(1, 3, 64, 96)
    outputs = {}
    for heads in (("object_detection",), BOTH, ("segmentation",)):
        with torch.inference_mode():
            outputs[heads] = EfficientDet(replace(SMALL, heads=heads)).eval()(images)
    assert [type(value) for value in outputs[BOTH]] == [list, list, Tensor]
    assert len(outputs["object_detection",]) == 2
    assert outputs["segmentation",].shape == outputs[BOTH][2].shape == (1, 4, 16, 24)
    assert len(tree_leaves(outputs[BOTH])) == 7


@pytest.mark.parametrize("heads", [("segmentation",), pytest.param(BOTH, marks=pytest.mark.slow)])
def test_a_stored_graph_must_give_the_same_masks(heads: tuple[str, ...], tmp_path: Path) -> None:
    pytest.importorskip("tensorflow")
    from support.graphs import write_meta

    config = replace(SMALL, heads=heads)
    settings = Settings(image_size=(64, 64), dtypes=("float32",), modes=("cumulative",), graph=True)
    values = random_variables(config)
    results = {}
    for name in ("swish", "relu6"):
        (folder := tmp_path / name).mkdir()
        start = write_meta(folder / "m", replace(config, activation=name), values, values)
        with open_checkpoint(start) as source:
            preparation = prepare(source, hparams="image_size=96x64,act_type=swish")
            convert_checkpoint(preparation, folder / "m.pth")
            results[name] = verify_model(folder / "m.pth", source, settings)
    right, wrong = results.values()
    assert right.passed
    assert right.graph is not None
    assert right.graph.outputs[-1].torch == "seg_head.predict"
    assert len(right.graph.outputs) == (7 if config.detects else 1)
    assert not wrong.passed
    assert headline(wrong).endswith("segmentation head.")


def test_a_kernel_with_exchanged_channels_is_named(tmp_path: Path) -> None:
    pytest.importorskip("tensorflow")
    start = checkpoint(tmp_path / "start", SMALL)
    model = convert(start, tmp_path / "model.pth")
    content = torch.load(model, weights_only=True)
    key = "seg_head.conv_rep.0.weight"
    content["state_dict"][key] = content["state_dict"][key].transpose(0, 1).contiguous()
    torch.save(content, model)
    settings = Settings(image_size=(64, 64), dtypes=("float64",), modes=("isolated",), graph=False)
    with open_checkpoint(start) as source:
        result = verify_model(model, source, settings)
    assert [layer.torch for layer in result.failures] == ["seg_head.conv_rep.0"]
    words = str(result.diagnoses)
    assert "input and output channels exchanged" in words
    assert "segmentation_head/conv2d_transpose/kernel with axes OIHW; PyTorch's are IOHW" in words
