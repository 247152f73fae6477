"""Planted mistakes: the diagnosis must name each of them, at the layer where it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from converter.conversion import Preparation, convert_checkpoint, prepare
from converter.locate import open_checkpoint
from converter.plan.engine import convert
from converter.source import VariableSource
from effdet_torch.network.bifpn import fusion_weights
from effdet_torch.network.checkpoint import load_model
from effdet_torch.network.model import EfficientDet
from support.sources import MemorySource, plan_of, small_config
from verify.diagnosis import diagnosis
from verify.diagnosis.diagnosis import EXACT, MAX_LAYERS, Study, diagnose
from verify.layers.measures import measure
from verify.layers.pairs import layer_pairs
from verify.layers.parity import TENSORFLOW_MODES, compare_layers, match_layers, one_thread
from verify.layers.tolerances import tolerance
from verify.reference.base import Reference, Tap
from verify.reference.network import TensorFlowReference
from verify.results.verification import DType, LayerResult, Mode
from verify.seeded import seeded_variables, write_seeded_checkpoint
from verify.subjects.references import build_reference
from verify.subjects.weights import Weights, in_dtype
from verify.verification import Settings, verify_model

pytest.importorskip("tensorflow")

Array = NDArray[np.float32]
SIZE = 64

BLOCK = "backbone.blocks.1.0"
NODE = "fpn.cell.0.fnode.1"
NORM = f"{NODE}.after_combine.conv.bn"
POINTWISE = f"{NODE}.after_combine.conv.conv_pw.weight"
HEAD_NORM = "class_net.bn_rep.0"
BLOCK_TF = "efficientnet-b0/blocks_1"
NODE_TF = "fpn_cells/cell_0/fnode1"
COMBINED = f"{NODE_TF}/op_after_combine4"


class Recorded(Reference):
    """TensorFlow's layers, run once and shown again and again."""

    def __init__(self, reference: Reference, images: Array) -> None:
        self._taps = list(reference.taps(images))

    def taps(self, images: NDArray[Any]) -> Iterator[Tap]:
        return iter(self._taps)

    def describe(self) -> dict[str, str]:
        return {}


class Bench(NamedTuple):
    """A converted model and all that its diagnosis needs."""

    model: EfficientDet
    preparation: Preparation
    images: Array
    reference: Recorded
    path: Path

    def stored(self, variable: str) -> Tensor:
        """Return a TensorFlow variable."""
        return torch.from_numpy(np.array(self.preparation.source.read(self.preparation.view.stored[variable])))


Plant = Callable[[Any, Bench], None]  # changes a model


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Layers this small lose more by waiting for each other than they gain."""
    with one_thread():
        yield


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VariableSource]:
    with open_checkpoint(write_seeded_checkpoint(small_config(), tmp_path_factory.mktemp("diagnosis"))) as opened:
        yield opened


@pytest.fixture(scope="module")
def bench(source: VariableSource) -> Bench:
    preparation = prepare(source)
    path = source.path.parent / "model.pth"
    convert_checkpoint(preparation, path)
    images = np.random.default_rng(0).standard_normal((1, SIZE, SIZE, 3), np.float32)
    reference = build_reference(preparation, "float64")
    return Bench(load_model(path), preparation, images, Recorded(reference, images), path)


class Studied(NamedTuple):
    """A model with a mistake, its comparison in float64, and what observed it."""

    layers: list[LayerResult]
    model: EfficientDet
    weights: Weights
    images: Array
    study: Study


def studied(bench: Bench, plant: Plant | None = None, modes: tuple[Mode, ...] = TENSORFLOW_MODES) -> Studied:
    """Plant a mistake into a copy of the model, and compare it with the recorded layers."""
    model = deepcopy(bench.model)
    if plant is not None:
        with torch.no_grad():
            plant(model, bench)
    weights = Weights.of_model(model, bench.preparation)
    exact = in_dtype(model, weights, "float64")
    study, plan = Study(exact, weights), bench.preparation.plan
    layers = compare_layers(bench.reference, exact, plan, bench.images, "float64", modes, observer=study.observe)
    assert (plant is None) == all(layer.passed for layer in layers)
    return Studied(layers, model, weights, bench.images, study)


def fold(times: int) -> Plant:
    def plant(model: Any, bench: Bench) -> None:
        mean, bias = (bench.stored(f"{COMBINED}/{name}") for name in ("bn/moving_mean", "conv/bias"))
        model.get_submodule(NORM).running_mean.copy_(mean - times * bias)

    return plant


def change(key: str, function: Callable[[Tensor], Tensor]) -> Plant:
    def plant(model: Any, bench: Bench) -> None:
        tensor = model.state_dict()[key]
        tensor.copy_(function(tensor.clone()))

    return plant


def exchange(one: str, other: str) -> Plant:
    """Exchange all tensors of two modules."""

    def plant(model: Any, bench: Bench) -> None:
        first, second = model.get_submodule(one), model.get_submodule(other)
        state = deepcopy(first.state_dict())
        first.load_state_dict(second.state_dict())
        second.load_state_dict(state)

    return plant


def set_part(module: str, name: str, value: object) -> Plant:
    return lambda model, bench: setattr(model.get_submodule(module), name, value)


def pad_both_sides(model: Any, bench: Bench) -> None:
    block = model.get_submodule(BLOCK)
    right = block.conv_dw
    block.conv_dw = nn.Conv2d(right.in_channels, right.out_channels, 3, 2, 1, groups=right.groups, bias=False)
    block.conv_dw.load_state_dict(right.state_dict())


def use_raw(model: Any, bench: Bench) -> None:
    path = bench.path.with_name("raw.pth")
    convert_checkpoint(prepare(bench.preparation.source, weights="raw"), path)
    model.load_state_dict(load_model(path).state_dict())


class Softmax(nn.Module):
    """A node's inputs with the weights of the other fusion."""

    def __init__(self, combine: Any) -> None:
        super().__init__()
        self.edge_weights, self.resample, self.per_channel = combine.edge_weights, combine.resample, False

    def forward(self, inputs: list[Tensor], *size: int) -> Tensor:
        weights = fusion_weights(self.edge_weights, softmax=True)
        features = [layer(x, *size) for layer, x in zip(self.resample.values(), inputs, strict=True)]
        return sum((x * weight for x, weight in zip(features, weights, strict=True)), torch.zeros(()))


def other_fusion(model: Any, bench: Bench) -> None:
    node = model.get_submodule(NODE)
    node.combine = Softmax(node.combine)


# Mistake -> (how it is planted, the diagnosis, layers at which it is reported, wrong PyTorch tensor).
PLANTS: dict[str, tuple[Plant, str, set[str], str | None]] = {
    "bias not folded": (fold(0), "bias not folded", {f"{COMBINED}/bn"}, f"{NORM}.running_mean"),
    "bias folded twice": (fold(2), "bias folded twice", {f"{COMBINED}/bn"}, f"{NORM}.running_mean"),
    "kernel not transposed": (
        change(f"{BLOCK}.conv_dw.weight", lambda kernel: kernel.transpose(2, 3)),
        "kernel not transposed: height and width exchanged",
        {f"{BLOCK_TF}/depthwise_conv2d"},
        f"{BLOCK}.conv_dw.weight",
    ),
    "kernel flipped": (
        change("backbone.conv_stem.weight", lambda kernel: kernel.flip(2, 3)),
        "kernel flipped",
        {"efficientnet-b0/stem/conv2d"},
        "backbone.conv_stem.weight",
    ),
    "channels exchanged": (
        change(POINTWISE, lambda kernel: kernel.transpose(0, 1)),
        "input and output channels exchanged",
        {f"{COMBINED}/conv"},
        POINTWISE,
    ),
    "raw for EMA": (use_raw, "raw for EMA", {"efficientnet-b0/stem/conv2d"}, "backbone.conv_stem.weight"),
    "two levels": (
        exchange(f"{HEAD_NORM}.0", f"{HEAD_NORM}.1"),
        "batch norms of two levels exchanged",
        {"class_net/class-0-bn-3", "class_net/class-0-bn-4"},
        f"{HEAD_NORM}.0.bn.weight",
    ),
    "two blocks": (
        exchange("backbone.blocks.2.0.bn3", "backbone.blocks.2.1.bn3"),
        "batch norms of two blocks exchanged",
        {f"efficientnet-b0/blocks_{flat}/tpu_batch_normalization_2" for flat in (3, 4)},
        "backbone.blocks.2.0.bn3.weight",
    ),
    "fusion weights": (
        change("fpn.cell.0.fnode.2.combine.edge_weights", lambda weights: weights[[1, 2, 0]]),
        "fusion weights in another order",
        {"fpn_cells/cell_0/fnode2/fuse"},
        "fpn.cell.0.fnode.2.combine.edge_weights",
    ),
    "epsilon": (set_part(NORM, "eps", 1e-5), "batch norm epsilon", {f"{COMBINED}/bn"}, None),
    "padding": (pad_both_sides, "padding on the wrong side", {f"{BLOCK_TF}/depthwise_conv2d"}, None),
    "fusion": (other_fusion, "fusion of the inputs", {f"{NODE_TF}/fuse"}, None),
    "activation of a head": (
        set_part(f"{HEAD_NORM}.1", "act", nn.Identity()),
        "wrong activation",
        {"class_net/class-0-bn-4"},
        None,
    ),
    "activation of a block": (
        set_part(f"{BLOCK}.bn1", "act", nn.ReLU6()),
        "wrong activation",
        {f"{BLOCK_TF}/tpu_batch_normalization"},
        None,
    ),
    "activation of a node": (set_part(f"{NODE}.after_combine", "act", nn.ReLU()), "wrong activation", {NODE_TF}, None),
    "activation of a squeeze-excite": (
        set_part(f"{BLOCK}.se", "act1", nn.ReLU6()),
        "wrong activation",
        {f"{BLOCK_TF}/se"},
        None,
    ),
}


@pytest.mark.parametrize("name", PLANTS)
def test_names_the_mistake(name: str, bench: Bench) -> None:
    plant, mistake, layers, tensor = PLANTS[name]
    diagnoses = diagnose(*studied(bench, plant))
    assert {(found.mistake, found.layer) for found in diagnoses} == {(mistake, layer) for layer in layers}
    assert diagnoses[0].tensor == tensor
    assert max(found.remaining for found in diagnoses) <= EXACT


def test_the_explanation_names_variables_and_the_row(bench: Bench) -> None:
    (found,) = diagnose(*studied(bench, fold(0), ("cumulative",)))
    assert found.explanation == (
        f"It is the stored {COMBINED}/bn/moving_mean; it should be {COMBINED}/bn/moving_mean minus "
        f"{COMBINED}/conv/bias; convert the checkpoint again; if that does not help, see fold_bias in "
        f"{bench.preparation.plan.targets[f'{NORM}.running_mean'].layer.row.where}."
    )


def test_two_mistakes_in_one_layer(bench: Bench) -> None:
    def plant(model: Any, bench: Bench) -> None:
        fold(0)(model, bench)
        set_part(NORM, "eps", 1e-5)(model, bench)

    found = studied(bench, plant)
    assert [diagnosis.mistake for diagnosis in diagnose(*found)] == ["bias not folded", "batch norm epsilon"]
    stays = in_dtype(found.model, found.weights, "float64").state_dict()
    assert torch.equal(found.study._exact.state_dict()[f"{NORM}.running_mean"], stays[f"{NORM}.running_mean"])


def test_unknown_mistakes_are_described(bench: Bench) -> None:
    key = f"{BLOCK}.conv_pw.weight"
    noise = torch.from_numpy(np.random.default_rng(1).standard_normal((96, 16, 1, 1), np.float32))
    (found,) = diagnose(*studied(bench, change(key, lambda kernel: kernel + noise)))
    assert (found.mistake, found.tensor) == ("unexplained", key)
    assert "1536 of 1536 values differ" in found.explanation
    (found,) = diagnose(*studied(bench, set_part(f"{HEAD_NORM}.1", "act", nn.Tanhshrink())))
    assert (found.mistake, found.tensor) == ("unexplained", None)
    assert "computes something else" in found.explanation


def test_a_wrong_connection_shows_in_its_place_only(bench: Bench) -> None:
    def plant(model: Any, bench: Bench) -> None:
        model.fpn.register_forward_pre_hook(lambda module, inputs: ([inputs[0][0], inputs[0][1], inputs[0][2] * 2],))

    (found,) = diagnose(*studied(bench, plant))
    assert found.mistake == "another input"


def test_the_first_layers_are_explained(bench: Bench) -> None:
    def plant(model: Any, bench: Bench) -> None:
        for key, tensor in model.state_dict().items():
            if key.endswith("running_var"):
                tensor.sqrt_()

    diagnoses = diagnose(*studied(bench, plant))
    assert [found.mistake for found in diagnoses] == ["standard deviation for variance"] * MAX_LAYERS
    assert diagnoses[0].layer == "efficientnet-b0/stem/tpu_batch_normalization"


def test_a_right_model_and_rounding(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A layer that is right in float64 can exceed its tolerance in float32 by rounding only."""
    monkeypatch.setattr(diagnosis, "build_reference", lambda *_: bench.reference)
    found = studied(bench)
    assert diagnose(*found) == []
    for mode in TENSORFLOW_MODES:
        rounded = [
            replace(layer, dtype="float32", tolerance=-1.0)
            for layer in found.layers
            if (layer.mode, layer.tf) == (mode, f"{COMBINED}/bn")
        ]
        (diagnosed,) = diagnose([*found.layers, *rounded], *studied(bench)[1:])
        assert (diagnosed.layer, diagnosed.mistake) == (f"{COMBINED}/bn", "rounding of float32")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_output_that_is_small_beside_its_bias(dtype: DType) -> None:
    """Training leaves such layers; the bias taken off the sum again would leave little but roundings."""
    plan = plan_of(small_config())
    variables = dict(seeded_variables(plan, "small"))
    variables[f"{COMBINED}/conv/pointwise_kernel"] *= np.float32(1e-6)
    preparation = prepare(MemorySource(variables))
    model = EfficientDet(preparation.settings.config)
    converted = convert(preparation.source, preparation.plan, preparation.view)
    model.load_state_dict({key: torch.from_numpy(np.array(tensor)) for key, tensor in converted})
    images = np.random.default_rng(0).standard_normal((1, SIZE, SIZE, 3), np.float32)
    compared, bound = in_dtype(model, Weights.of_model(model, preparation), dtype), tolerance("isolated", dtype, "")
    taps = build_reference(preparation, dtype).taps(images)
    with torch.inference_mode():
        for match in match_layers(taps, layer_pairs(plan)):
            error = match.measure_alone(compared).max_over_rms
            assert error <= tolerance("isolated", dtype, match.pair.layer.kind)
            if match.pair.layer.tf == f"{COMBINED}/conv":
                assert match.bias is not None
                without = measure(match.run(compared), match.expected - match.bias)
                assert without.max_over_rms > bound


def test_layers_leave_their_input_alone(bench: Bench) -> None:
    """One that overwrote it would change what other layers are given."""
    found = studied(bench)
    matches = list(match_layers(bench.reference.taps(bench.images), layer_pairs(bench.preparation.plan)))
    with torch.inference_mode():
        again = {match.pair.name: match.measure_alone(found.study._exact).max_over_rms for match in reversed(matches)}
    once = {layer.name: layer.measures.max_over_rms for layer in found.layers if layer.mode == "isolated"}
    assert once == again
    assert len(once) > 200


KEY = "box_net.predict.conv_pw.weight"


@pytest.mark.parametrize(
    ("key", "dtypes", "modes", "runs"),
    [
        (KEY, ("float64", "float32"), TENSORFLOW_MODES, 2),
        (KEY, ("float64", "float32"), ("cumulative",), 2),
        (KEY, ("float32",), ("isolated",), 2),
        (KEY, ("float32",), ("cumulative",), 2),
        ("backbone.bn1.num_batches_tracked", ("float64",), ("isolated",), 1),  # no layer computes with it
    ],
)
def test_whole_verification(
    key: str,
    dtypes: tuple[DType, ...],
    modes: tuple[Mode, ...],
    runs: int,
    bench: Bench,
    source: VariableSource,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """A wrong file, from reading it to the diagnosis; TensorFlow runs once more only where float64 was not compared."""
    started: list[str] = []
    taps = TensorFlowReference.taps
    monkeypatch.setattr(TensorFlowReference, "taps", lambda self, images: started.append("") or taps(self, images))
    content = torch.load(bench.path, weights_only=True)
    content["state_dict"][key].sub_(1).neg_()
    torch.save(content, tmp_path / "wrong.pth")
    result = verify_model(tmp_path / "wrong.pth", source, Settings(image_size=(64, 64), dtypes=dtypes, modes=modes))
    assert len(started) == runs
    assert result.audit is not None
    assert not result.passed
    assert [finding.tensor for finding in result.audit.findings] == [key]
    *_, found = result.diagnoses
    expected = (KEY, "unexplained", "box_net/box-predict (P3)")
    if key != KEY:
        expected = (key, "unexplained", "efficientnet-b0/stem/tpu_batch_normalization")
    assert (found.tensor, found.mistake, found.layer) == expected
    assert found.remaining <= EXACT
