"""Known mistakes, each in one layer's computation: the explanation must name it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from effdet_torch.network.backbone import batch_norm
from effdet_torch.network.bifpn import Resample
from support.sources import plan_of, small_config
from verify.diagnosis.computation_mistakes import COMPUTATIONS, explain_output
from verify.diagnosis.layer_run import LayerRun, same_padding
from verify.layers.pairs import ISOLATED, layer_pairs

CONFIG = small_config()
HEAD = "class_net.bn_rep.0.0.bn"


def run_of(module: nn.Module, inputs: Tensor, expected: Tensor, activated: bool = False) -> LayerRun:
    return LayerRun(module.double().eval(), [inputs.double()], expected, 1.0, CONFIG, activated)


def images(*shape: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(0).standard_normal(shape))


@pytest.fixture(autouse=True)
def _inference() -> Iterator[None]:
    with torch.inference_mode():
        yield


def mistake_of(kind: str, run: LayerRun, output: Tensor) -> str | None:
    explained = explain_output(kind, run, output, 1e-12)
    return None if explained is None else f"{explained.computation.mistake}: {explained.words}"


@pytest.mark.parametrize(
    ("pads", "words"), [((1, 1, 1, 1), "padding of 1 on every side"), ((0, 0, 0, 0), "no padding")]
)
def test_padding(pads: tuple[int, ...], words: str) -> None:
    conv, x = nn.Conv2d(3, 4, 3, stride=2), images(1, 3, 16, 16)
    expected = conv.double()(F.pad(x, (0, 1, 0, 1)))
    found = mistake_of("conv", run_of(conv, x, expected), conv(F.pad(x, pads)))
    assert found is not None
    assert found.startswith(f"padding on the wrong side: {words}; SAME pads")
    assert mistake_of("conv", run_of(conv, x, expected), expected) is None


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "pads"), [(16, 3, 2, (0, 1)), (15, 3, 2, (1, 1)), (8, 5, 1, (2, 2))]
)
def test_same_padding(size: int, kernel: int, stride: int, pads: tuple[int, int]) -> None:
    assert same_padding(size, kernel, stride) == pads


def normalize(module: nn.BatchNorm2d, x: Tensor, eps: float = 1e-3) -> Tensor:
    return F.batch_norm(x, module.running_mean, module.running_var, module.weight, module.bias, eps=eps)


@pytest.mark.parametrize("epsilon", [1e-5, 3e-4, 0.0])
def test_epsilon(epsilon: float) -> None:
    norm, x = batch_norm(4).double(), images(2, 4, 8, 8)
    norm.eps = epsilon
    run = run_of(norm, x, F.silu(normalize(norm, x)), activated=True)
    found = mistake_of("batch_norm", run, F.silu(norm.eval()(x)))
    assert found == f"batch norm epsilon: epsilon {epsilon:g} instead of 0.001"


def test_activation_and_batch_statistics() -> None:
    norm, x = batch_norm(4).double().eval(), images(2, 4, 8, 8)
    run = run_of(norm, x, F.silu(norm(x)), activated=True)
    assert mistake_of("batch_norm", run, norm(x)) == "wrong activation: no activation instead of swish"
    assert mistake_of("batch_norm", run, F.relu6(norm(x))) == "wrong activation: relu6 instead of swish"
    trained = F.silu(F.batch_norm(x, None, None, norm.weight, norm.bias, training=True, eps=1e-3))
    assert str(mistake_of("batch_norm", run, trained)).startswith("batch statistics")
    assert mistake_of("batch_norm", run, F.silu(norm(x))) is None
    assert mistake_of("batch_norm", run, norm(x) + 1) is None


UPSAMPLING = ("bilinear upsampling instead of nearest", lambda x, size: F.interpolate(x, size, mode="bilinear"))
POOLING = ("zeros as padding; SAME pads with -inf", lambda x, size: F.max_pool2d(F.pad(x, (0, 1, 0, 1)), 3, 2))


@pytest.mark.parametrize(("size", "way"), [((16, 16), UPSAMPLING), ((13, 15), UPSAMPLING), ((4, 4), POOLING)])
def test_resampling(size: tuple[int, int], way: tuple[str, Callable[[Tensor, tuple[int, int]], Tensor]]) -> None:
    words, wrong = way
    module, x = Resample(4, 4, bias=False), images(1, 4, 8, 8) - 5  # negative: zeros as padding would win
    run = run_of(module, x, module(x, *size))
    assert str(mistake_of("resample", run, wrong(x, size))).startswith(f"resampling: {words}")
    assert mistake_of("resample", run, run.expected) is None  # at twice the size, nearest-exact is right


@pytest.mark.parametrize("size", [1, 2, 5])
def test_small_features(size: int) -> None:
    """On the highest levels features are smaller than kernels: some mistakes cannot be made there."""
    x = images(1, 4, size, size)
    for stride in (1, 2):
        conv = nn.Conv2d(4, 4, 5, stride=stride).double()
        expected = conv(F.pad(x, [pad for _ in range(2) for pad in same_padding(size, 5, stride)]))
        assert mistake_of("conv", run_of(conv, x, expected), expected + 1) is None
    module, half = Resample(4, 4, bias=False), (size + 1) // 2
    run = run_of(module, x, module(x, half, half))
    assert mistake_of("resample", run, run.expected + 1) is None


def test_mistakes_apply_to_layers_that_exist() -> None:
    assert {kind for computation in COMPUTATIONS for kind in computation.kinds} == set(ISOLATED)


def test_what_a_batch_norm_must_give_follows_from_the_plan() -> None:
    """A module that lacks its activation is compared with TensorFlow's activation all the same."""
    norms = {pair.layer.torch: pair for pair in layer_pairs(plan_of(CONFIG)) if pair.layer.kind == "batch_norm"}
    activated = {name for name, pair in norms.items() if pair.output_from[0].endswith("-act")}
    assert "backbone.bn1" in activated
    assert {f"backbone.blocks.0.0.{norm}" for norm in ("bn1", "bn2")} & activated == {"backbone.blocks.0.0.bn1"}
    blocks = {f"backbone.blocks.1.0.{norm}" for norm in ("bn1", "bn2", "bn3")}
    assert blocks & activated == blocks - {"backbone.blocks.1.0.bn3"}
    assert not any(name.startswith("fpn") for name in activated)
    assert {name for name in norms if "_net." in name} <= activated
    assert norms[HEAD].module == norms[HEAD].alone == HEAD.removesuffix(".bn")
