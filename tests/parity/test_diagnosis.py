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
from torch import nn

from converter.conversion import Preparation, convert_checkpoint, prepare
from converter.locate import open_checkpoint
from converter.plan.engine import convert
from converter.source import VariableSource
from effdet_torch.network.bifpn import fusion_weights
from effdet_torch.network.checkpoint import load_model
from effdet_torch.network.model import EfficientDet
from support.sources import MemorySource, plan_of, small_config
from verify.diagnosis import diagnosis
from verify.diagnosis.cases import collect_cases
from verify.diagnosis.diagnosis import MAX_LAYERS, diagnose
from verify.layers.measures import measure
from verify.layers.pairs import layer_pairs
from verify.layers.parity import compare_layers, one_thread, to_nhwc
from verify.layers.tolerances import tolerance
from verify.reference.base import Reference, Tap
from verify.results import Diagnosis, DType, Mode, Verification
from verify.seeded import seeded_variables, write_seeded_checkpoint
from verify.verification import Settings, build_reference, in_dtype, verify_model

pytest.importorskip("tensorflow")

Array = NDArray[np.float32]
State = dict[str, torch.Tensor]
SIZE = 64
EXACT = tolerance("isolated", "float64", "")

BLOCK = "backbone.blocks.1.0"
NODE = "fpn.cell.0.fnode.1"
NORM = f"{NODE}.after_combine.conv.bn"
HEAD_NORM = "class_net.bn_rep.0"


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

    def state(self, view: str) -> State:
        """Return the tensors that the conversion of a view gives."""
        with open_checkpoint(self.preparation.source.path) as source:
            convert_checkpoint(prepare(source, weights=view), self.path.with_name(f"{view}.pth"))
        return load_model(self.path.with_name(f"{view}.pth")).state_dict()

    def stored(self, variable: str) -> torch.Tensor:
        """Return a TensorFlow variable."""
        return torch.from_numpy(np.array(self.preparation.source.read(self.preparation.view.stored[variable])))


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
    reference = build_reference(preparation, "built-in", "float64")
    return Bench(load_model(path), preparation, images, Recorded(reference, images), path)


def verification(bench: Bench, model: EfficientDet, modes: tuple[Mode, ...] = ("isolated",)) -> Verification:
    """Compare a model, which may have a mistake, with the recorded layers in float64."""
    return verification_in_float64(bench, in_dtype(model, bench.preparation, "float64"), modes)


def verification_in_float64(bench: Bench, exact: EfficientDet, modes: tuple[Mode, ...] = ("isolated",)) -> Verification:
    layers = compare_layers(bench.reference, exact, bench.preparation.plan, bench.images, "float64", modes)
    return Verification({}, {}, {}, {}, tuple(layers), None)


def diagnoses_of(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, plant: Callable[[EfficientDet, Bench], None], **kwargs: Any
) -> list[Diagnosis]:
    """Plant a mistake into a copy of the model, and diagnose it."""
    monkeypatch.setattr(diagnosis, "build_reference", lambda *_: bench.reference)
    model = deepcopy(bench.model)
    with torch.no_grad():
        plant(model, bench)
    exact = in_dtype(model, bench.preparation, "float64")
    result = verification_in_float64(bench, exact, **kwargs)
    assert result.failures
    monkeypatch.setattr(diagnosis, "in_dtype", lambda *_: exact)  # a copy takes longer than the rest
    return diagnose(result, model, bench.preparation, bench.images)


def fold(model: EfficientDet, bench: Bench, times: int) -> None:
    entry = bench.preparation.plan.targets[f"{NORM}.running_mean"]
    mean, bias = (bench.stored(name) for name in entry.inputs)
    model.state_dict()[f"{NORM}.running_mean"].copy_(mean - times * bias)


def change(key: str, function: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[EfficientDet, Bench], None]:
    def plant(model: EfficientDet, bench: Bench) -> None:
        tensor = model.state_dict()[key]
        tensor.copy_(function(tensor.clone()))

    return plant


def exchange(one: str, other: str) -> Callable[[EfficientDet, Bench], None]:
    """Exchange all tensors of two modules."""

    def plant(model: EfficientDet, bench: Bench) -> None:
        first, second = model.get_submodule(one), model.get_submodule(other)
        state = deepcopy(first.state_dict())
        first.load_state_dict(second.state_dict())
        second.load_state_dict(state)

    return plant


def set_epsilon(model: EfficientDet, bench: Bench) -> None:
    model.get_submodule(NORM).eps = 1e-5


def pad_both_sides(model: EfficientDet, bench: Bench) -> None:
    block = model.get_submodule(BLOCK)
    right = block.conv_dw
    assert isinstance(right, nn.Conv2d)
    wrong = nn.Conv2d(right.in_channels, right.out_channels, 3, stride=2, padding=1, groups=right.groups, bias=False)
    wrong.load_state_dict(right.state_dict())
    block.conv_dw = wrong


def use_raw(model: EfficientDet, bench: Bench) -> None:
    model.load_state_dict(bench.state("raw"))


# Mistake -> (how it is planted, the diagnosis, layers at which it is reported, PyTorch tensor).
POINTWISE = f"{NODE}.after_combine.conv.conv_pw.weight"
NODE_TF = "fpn_cells/cell_0/fnode1"
COMBINED = f"{NODE_TF}/op_after_combine4"
PLANTS: dict[str, tuple[Callable[[EfficientDet, Bench], None], str, set[str], str | None]] = {
    "bias not folded": (
        lambda model, bench: fold(model, bench, 0),
        "bias not folded",
        {f"{COMBINED}/bn"},
        f"{NORM}.running_mean",
    ),
    "bias folded twice": (
        lambda model, bench: fold(model, bench, 2),
        "bias folded twice",
        {f"{COMBINED}/bn"},
        f"{NORM}.running_mean",
    ),
    "kernel not transposed": (
        change(f"{BLOCK}.conv_dw.weight", lambda kernel: kernel.transpose(2, 3)),
        "kernel not transposed: height and width exchanged",
        {"efficientnet-b0/blocks_1/depthwise_conv2d"},
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
    "wrong epsilon": (set_epsilon, "batch norm epsilon", {f"{COMBINED}/bn"}, None),
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
    "padding": (
        pad_both_sides,
        "padding on the wrong side",
        {"efficientnet-b0/blocks_1/depthwise_conv2d"},
        None,
    ),
    "fusion weights": (
        change("fpn.cell.0.fnode.2.combine.edge_weights", lambda weights: weights[[1, 2, 0]]),
        "fusion weights in another order",
        {"fpn_cells/cell_0/fnode2/fuse"},
        "fpn.cell.0.fnode.2.combine.edge_weights",
    ),
}


@pytest.mark.parametrize("name", PLANTS)
def test_names_the_mistake(name: str, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    plant, mistake, layers, tensor = PLANTS[name]
    diagnoses = diagnoses_of(bench, monkeypatch, plant, modes=("cumulative", "isolated"))
    assert {(found.mistake, found.layer) for found in diagnoses} == {(mistake, layer) for layer in layers}
    assert diagnoses[0].tensor == tensor
    assert max(found.remaining for found in diagnoses) <= EXACT


def test_two_mistakes_in_one_layer(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def plant(model: EfficientDet, bench: Bench) -> None:
        fold(model, bench, 0)
        set_epsilon(model, bench)

    assert [found.mistake for found in diagnoses_of(bench, monkeypatch, plant)] == [
        "bias not folded",
        "batch norm epsilon",
    ]


class Softmax(nn.Module):
    """A node's inputs with the weights of the other fusion."""

    def __init__(self, combine: Any) -> None:
        super().__init__()
        self.edge_weights, self.resample = combine.edge_weights, combine.resample

    def forward(self, inputs: list[torch.Tensor]) -> torch.Tensor:
        size = inputs[0].shape[2:]
        weights = fusion_weights(self.edge_weights, softmax=True)
        features = [layer(x, *size) for layer, x in zip(self.resample.values(), inputs, strict=True)]
        return sum((x * weight for x, weight in zip(features, weights, strict=True)), torch.zeros(()))


def test_wrong_fusion(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def plant(model: EfficientDet, bench: Bench) -> None:
        node: Any = model.get_submodule(NODE)
        node.combine = Softmax(node.combine)

    (found,) = diagnoses_of(bench, monkeypatch, plant)
    assert (found.mistake, found.layer) == ("fusion of the inputs", f"{NODE_TF}/fuse")
    assert "softmax instead of fastattn" in found.explanation


@pytest.mark.parametrize(
    ("module", "attribute", "mistake", "words"),
    [
        ("class_net.bn_rep.0.1", "act", "wrong activation", "no activation instead of swish"),
        ("backbone.blocks.1.0.bn1", "act", "wrong activation", "no activation instead of swish"),
        (f"{NODE}.after_combine", "act", "wrong activation", "no activation instead of swish"),
        ("backbone.blocks.1.0.se", "gate", "squeeze-excite activation", "no activation as gate"),
    ],
)
def test_missing_activation(
    module: str, attribute: str, mistake: str, words: str, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def plant(model: EfficientDet, bench: Bench) -> None:
        setattr(model.get_submodule(module), attribute, nn.Identity())

    (found,) = diagnoses_of(bench, monkeypatch, plant)
    assert found.mistake == mistake
    assert words in found.explanation


def test_missing_residual_connection(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def plant(model: EfficientDet, bench: Bench) -> None:
        block: Any = model.get_submodule("backbone.blocks.1.1")
        block.has_skip = False

    (found,) = diagnoses_of(bench, monkeypatch, plant)
    assert (found.mistake, found.layer) == ("residual connection", "efficientnet-b0/blocks_2")


def test_unknown_mistakes_are_described(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    key = f"{BLOCK}.conv_pw.weight"
    noise = torch.from_numpy(np.random.default_rng(1).standard_normal((96, 16, 1, 1), np.float32))
    (found,) = diagnoses_of(bench, monkeypatch, change(key, lambda kernel: kernel + noise))
    assert (found.mistake, found.tensor) == ("unexplained", key)
    assert "1536 of 1536 values differ" in found.explanation

    def cube(model: EfficientDet, bench: Bench) -> None:
        setattr(model.get_submodule("class_net.bn_rep.0.1"), "act", nn.Tanhshrink())  # noqa: B010

    (found,) = diagnoses_of(bench, monkeypatch, cube)
    assert (found.mistake, found.tensor) == ("unexplained", None)
    assert "computes something else" in found.explanation


def test_a_wrong_connection_shows_in_its_place_only(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def plant(model: EfficientDet, bench: Bench) -> None:
        model.fpn.register_forward_pre_hook(lambda module, inputs: ([inputs[0][0], inputs[0][1], inputs[0][2] * 2],))

    (found,) = diagnoses_of(bench, monkeypatch, plant, modes=("cumulative", "isolated"))
    assert found.mistake == "another input"


def test_layers_are_found_from_cumulative_results(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    found, *_ = diagnoses_of(bench, monkeypatch, PLANTS["bias not folded"][0], modes=("cumulative",))
    assert (found.mistake, found.layer) == ("bias not folded", f"{COMBINED}/bn")


def test_a_right_model_has_no_suspects(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnosis, "build_reference", lambda *_: bench.reference)
    result = verification(bench, bench.model)
    assert result.passed
    assert diagnose(result, bench.model, bench.preparation, bench.images) == []


def test_rounding(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A layer that is right in float64 is beyond a tolerance for rounding only."""
    monkeypatch.setattr(diagnosis, "build_reference", lambda *_: bench.reference)
    result = verification(bench, bench.model, ("cumulative", "isolated"))
    strict = [replace(layer, tolerance=-1.0) if layer.tf == f"{COMBINED}/bn" else layer for layer in result.layers]
    isolated = replace(result, layers=tuple(layer for layer in strict if layer.mode == "isolated"))
    (found,) = diagnose(isolated, bench.model, bench.preparation, bench.images)
    assert (found.layer, found.mistake) == (f"{COMBINED}/bn", "rounding of float32")

    in_place = tuple(replace(layer, dtype="float32") for layer in strict if layer.mode == "cumulative")
    right = tuple(layer for layer in result.layers if layer.mode == "isolated")
    (found,) = diagnose(replace(result, layers=in_place + right), bench.model, bench.preparation, bench.images)
    assert (found.layer, found.mistake) == (f"{COMBINED}/bn", "rounding of float32")


def test_the_first_layers_are_explained(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def plant(model: EfficientDet, bench: Bench) -> None:
        for key, tensor in model.state_dict().items():
            if key.endswith("running_var"):
                tensor.sqrt_()

    diagnoses = diagnoses_of(bench, monkeypatch, plant)
    assert [found.mistake for found in diagnoses] == ["standard deviation for variance"] * MAX_LAYERS
    assert diagnoses[0].layer == "efficientnet-b0/stem/tpu_batch_normalization"


def test_audit_alone(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tensor that no layer computes with: only the bits tell."""
    monkeypatch.setattr(diagnosis, "build_reference", lambda *_: bench.reference)
    key, model = "backbone.bn1.num_batches_tracked", deepcopy(bench.model)
    model.state_dict()[key].fill_(5)
    result = verification(bench, model)
    assert result.passed
    (found,) = diagnose(result, model, bench.preparation, bench.images)
    assert (found.tensor, found.mistake) == (key, "unexplained")
    assert found.remaining <= EXACT


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
    exact, reference = in_dtype(model, preparation, dtype), build_reference(preparation, "built-in", dtype)
    cases = {case.pair.layer.tf: case for case in collect_cases(reference, layer_pairs(plan), images, dtype)}
    with torch.inference_mode():
        errors = {
            case.name: case.error(exact) / tolerance("isolated", dtype, case.pair.layer.kind) for case in cases.values()
        }
        small = cases[f"{COMBINED}/conv"]
        found = to_nhwc(small.run(exact))
    assert max(errors.values()) <= 1
    assert small.match.bias is not None
    assert measure(found, small.match.expected - small.match.bias).max_over_rms > tolerance("isolated", dtype, "")


def test_cases_can_run_again(bench: Bench) -> None:
    """A layer that overwrote its input would change the next run."""
    exact = in_dtype(bench.model, bench.preparation, "float64")
    cases = list(collect_cases(bench.reference, layer_pairs(bench.preparation.plan), bench.images, "float64"))
    with torch.inference_mode():
        once, again = ([case.error(exact) for case in cases] for _ in range(2))
    assert once == again
    assert len(cases) > 200
    assert max(once) <= EXACT


def test_whole_verification(bench: Bench, source: VariableSource, tmp_path: Path) -> None:
    """A wrong file, from reading it to the diagnosis."""
    content = torch.load(bench.path, weights_only=True)
    key = "box_net.predict.conv_pw.weight"
    content["state_dict"][key].neg_()
    wrong = tmp_path / "wrong.pth"
    torch.save(content, wrong)
    result = verify_model(wrong, source, Settings(image_size=(64, 64), dtypes=("float32",), modes=("isolated",)))
    assert result.audit is not None
    assert [finding.tensor for finding in result.audit.findings] == [key]
    (found,) = result.diagnoses
    assert (found.tensor, found.mistake, found.layer) == (key, "sign flipped", "box_net/box-predict (P3)")
    assert found.remaining <= EXACT
