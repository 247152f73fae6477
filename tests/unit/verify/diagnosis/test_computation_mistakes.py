"""Known mistakes, each in one layer's computation: the explanation must name it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from effdet_torch.config import get_config
from effdet_torch.network.bifpn import Resample, max_pool_same
from effdet_torch.network.layers import batch_norm
from support.sources import plan_of, small_config
from verify.diagnosis.computation_mistakes import COMPUTATIONS, LayerRun, explain_output
from verify.layers.kinds import COMPARED
from verify.layers.pairs import layer_pairs
from verify.layers.parity import Match

CONFIG = small_config()


def run_of(kind: str, module: nn.Module, inputs: Tensor, expected: Tensor, activated: bool = False) -> LayerRun:
    pair = next(pair for pair in layer_pairs(plan_of(CONFIG)) if pair.layer.kind == kind)
    scope = f"{pair.layer.tf}-act" if activated else pair.layer.tf
    pair = replace(pair, output_from=(scope, None))
    return LayerRun(module.double().eval(), CONFIG, Match(pair, 0, (inputs.double(),), expected, None))


def images(*shape: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(0).standard_normal(shape))


@pytest.fixture(autouse=True)
def _inference() -> Iterator[None]:
    with torch.inference_mode():
        yield


def mistake_of(run: LayerRun, output: Tensor) -> str | None:
    explained = explain_output(run, output, 1e-12)
    return None if explained is None else f"{explained.mistake}: {explained.words}"


def test_padding() -> None:
    conv, x = nn.Conv2d(3, 4, 3, stride=2), images(1, 3, 16, 16)
    run = run_of("conv", conv, x, conv.double()(F.pad(x, (0, 1, 0, 1))))
    words = "padding of 1 on every side instead of TensorFlow's SAME"
    assert mistake_of(run, conv(F.pad(x, [1] * 4))) == f"padding on the wrong side: {words}"
    assert mistake_of(run, run.match.expected) is None
    assert mistake_of(run, run.match.expected + 1) is None


def test_epsilon_and_activation() -> None:
    norm, x = batch_norm(4).double().eval(), images(2, 4, 8, 8)
    run = run_of("batch_norm", norm, x, F.silu(norm(x)), activated=True)
    assert mistake_of(run, norm(x)) == "wrong activation: no activation instead of swish"
    assert mistake_of(run, F.relu6(norm(x))) == "wrong activation: relu6 instead of swish"
    assert mistake_of(run, run.match.expected) is None
    assert mistake_of(run, norm(x) + 1) is None
    norm.eps = 1e-5
    assert mistake_of(run, F.silu(norm(x))) == "batch norm epsilon: epsilon 1e-05 instead of epsilon 0.001"


def test_order_of_pooling_and_convolution() -> None:
    config = get_config("d0", fpn_channels=4, redundant_bias=True)
    module, x = Resample(3, config).double().eval(), images(1, 3, 8, 8)
    run = run_of("resample", module, x, module(x, 4, 4))
    found = mistake_of(run, module.conv(max_pool_same(x, 4, 4)))
    assert found == (
        "order of pooling and convolution: the pooling before the convolution instead of the convolution before the "
        "pooling"
    )
    assert mistake_of(run, run.match.expected) is None


def test_mistakes_apply_to_kinds_that_exist() -> None:
    assert {kind for _, kinds, _, _ in COMPUTATIONS for kind in kinds} <= set(COMPARED)
