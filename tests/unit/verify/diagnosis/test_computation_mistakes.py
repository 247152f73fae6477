"""Known mistakes, each in one layer's computation: the explanation must name it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from effdet_torch.network.backbone import batch_norm
from effdet_torch.network.bifpn import Resample, max_pool_same
from support.sources import small_config
from verify.diagnosis.computation_mistakes import COMPUTATIONS, LayerRun, explain_output, same_padding
from verify.layers.kinds import COMPARED

CONFIG = small_config()


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


@pytest.mark.parametrize(("pad", "words"), [(1, "the same padding on every side"), (0, "no padding")])
def test_padding(pad: int, words: str) -> None:
    conv, x = nn.Conv2d(3, 4, 3, stride=2), images(1, 3, 16, 16)
    run = run_of(conv, x, conv.double()(F.pad(x, (0, 1, 0, 1))))
    found = mistake_of("conv", run, conv(F.pad(x, [pad] * 4)))
    assert (
        found == f"padding on the wrong side: {words}; SAME pads (before, after) rows by (0, 1) and columns by (0, 1)"
    )
    assert mistake_of("conv", run, run.expected) is None


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "pads"), [(16, 3, 2, (0, 1)), (15, 3, 2, (1, 1)), (8, 5, 1, (2, 2))]
)
def test_same_padding(size: int, kernel: int, stride: int, pads: tuple[int, int]) -> None:
    assert same_padding(size, kernel, stride) == pads


def test_epsilon_and_activation() -> None:
    norm, x = batch_norm(4).double().eval(), images(2, 4, 8, 8)
    run = run_of(norm, x, F.silu(norm(x)), activated=True)
    assert mistake_of("batch_norm", run, norm(x)) == "wrong activation: no activation instead of swish"
    assert mistake_of("batch_norm", run, F.relu6(norm(x))) == "wrong activation: relu6 instead of swish"
    assert mistake_of("batch_norm", run, run.expected) is None
    assert mistake_of("batch_norm", run, norm(x) + 1) is None
    norm.eps = 1e-5
    assert mistake_of("batch_norm", run, F.silu(norm(x))) == "batch norm epsilon: epsilon 1e-05 instead of 0.001"


def test_order_of_pooling_and_convolution() -> None:
    module, x = Resample(3, 4, bias=True).double().eval(), images(1, 3, 8, 8)
    run = run_of(module, x, module(x, 4, 4))
    found = mistake_of("resample", run, module.conv(max_pool_same(x)))
    assert found == "order of pooling and convolution: the pooling before the convolution"
    assert mistake_of("resample", run, run.expected) is None


@pytest.mark.parametrize("size", [1, 2, 5])
def test_small_features(size: int) -> None:
    """On the highest levels features are smaller than kernels: some mistakes cannot be made there."""
    x = images(1, 4, size, size)
    for stride in (1, 2):
        conv = nn.Conv2d(4, 4, 5, stride=stride).double()
        expected = conv(F.pad(x, [pad for _ in range(2) for pad in same_padding(size, 5, stride)]))
        assert mistake_of("conv", run_of(conv, x, expected), expected + 1) is None


def test_mistakes_apply_to_kinds_that_exist() -> None:
    assert {kind for computation in COMPUTATIONS for kind in computation.kinds} <= set(COMPARED)
