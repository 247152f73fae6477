"""A compiled network is compared before it is used; `make slow` compiles for real."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from effdet_torch import Predictor
from effdet_torch.errors import EffdetError
from effdet_torch.network.checkpoint import create_model
from effdet_torch.optimize.compile import CompiledNetwork, require_equal
from effdet_torch.optimize.fuse import fuse
from support.networks import alive, max_over_rms


def levels(value: float = 1.0) -> tuple[list[Tensor], list[Tensor]]:
    return [torch.full((1, 2, 4, 4), value)], [torch.full((1, 4, 4, 4), 2 * value), torch.full((1, 4, 2, 2), 1.0)]


def test_outputs_that_differ_are_refused() -> None:
    require_equal(levels(), levels(), "it")
    require_equal(levels(1 + 1e-4), levels(), "it")
    with pytest.raises(EffdetError, match=r"it changes output 0 .*: off by 1\.0e-02 of its rms"):
        require_equal(levels(1.01), levels(), "it")
    with pytest.raises(EffdetError, match="off by nan"):
        require_equal(levels(float("nan")), levels(), "it")


class Wrong(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, images: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        self.calls += 1
        return levels(float(self.calls))


def test_a_compiler_that_changes_the_network_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda network, **_: network)
    with pytest.raises(EffdetError, match=r"torch\.compile changes"):
        CompiledNetwork(Wrong())(torch.zeros(1, 3, 8, 8))


@pytest.mark.slow
def test_a_compiled_network() -> None:
    model = alive(create_model("d0", num_classes=2, image_size=128, fpn_cells=1, head_repeats=1))
    predictor = Predictor(model, compiled=True)
    images = torch.randn(1, 3, 128, 128)
    with torch.inference_mode():
        assert max_over_rms(predictor.engine(images), fuse(model)(images)) < 1e-3


@pytest.mark.slow
def test_freezing_keeps_the_fusion_weights_apart() -> None:
    """With the weights as numbers, torch 2.14 gives several convolutions the same one; see `findings/`."""
    from torch._inductor import config

    model = alive(create_model("d0", num_classes=2, image_size=128, fpn_cells=2, head_repeats=1))
    network, images = fuse(model), torch.randn(1, 3, 128, 128)
    with torch.inference_mode(), config.patch(freezing=True):
        assert max_over_rms(torch.compile(network)(images), network(images)) < 1e-3
