"""When a graph is recorded, compared and kept: with a stand-in for the GPU; `tests/cuda` records real ones."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from effdet_torch.errors import EffdetError
from effdet_torch.optimize.compile import Outputs
from effdet_torch.optimize.cuda_graph import MAX_BATCH, MAX_GRAPHS, GraphedNetwork


class Doubled(nn.Module):
    """Counts its runs."""

    def __init__(self) -> None:
        super().__init__()
        self.runs = 0

    def forward(self, pixels: Tensor) -> Outputs:
        self.runs += 1
        return [2 * pixels], [pixels + 1]


class OnCpu(GraphedNetwork):
    """Records what gives the network's outputs, times a factor."""

    def __init__(self, network: Doubled, factor: float = 1.0) -> None:
        super().__init__(network)
        self.factor, self.recordings, self.replays = factor, 0, 0

    def _record(self, pixels: Tensor) -> Any:
        self.recordings += 1
        pixels, outputs = pixels.clone(), ([torch.empty_like(pixels)], [torch.empty_like(pixels)])

        def replay() -> None:
            self.replays += 1
            outputs[0][0].copy_(2 * pixels * self.factor)
            outputs[1][0].copy_(pixels + 1)

        return SimpleNamespace(graph=SimpleNamespace(replay=replay), pixels=pixels, outputs=outputs)


def noise(batch: int = 1) -> Tensor:
    return torch.randn(batch, 3, 4, 4, generator=torch.Generator().manual_seed(0))


def test_a_graph_is_recorded_once_and_replayed() -> None:
    network = Doubled()
    graphed = OnCpu(network)
    for _ in range(3):
        assert torch.equal(graphed(noise())[0][0], 2 * noise())
    assert (network.runs, graphed.recordings, graphed.replays) == (1, 1, 3)


def test_outputs_are_not_overwritten_by_the_next_run() -> None:
    graphed = OnCpu(Doubled())
    graphed(noise())
    first, second = graphed(noise()), graphed(torch.zeros_like(noise()))
    assert torch.equal(first[0][0], 2 * noise())
    assert not second[0][0].any()


def test_a_graph_that_was_refused_never_runs() -> None:
    network = Doubled()
    graphed = OnCpu(network, factor=1.1)
    for _ in range(2):
        with pytest.raises(EffdetError, match="the CUDA graph changes output 0"):
            graphed(noise())
    assert graphed.recordings == 2


def test_large_batches_and_more_shapes_run_as_they_are() -> None:
    network = Doubled()
    graphed = OnCpu(network)
    graphed(noise(MAX_BATCH + 1))
    for batch in range(1, MAX_GRAPHS + 2):
        graphed(noise(batch))
    assert (network.runs, graphed.recordings) == (MAX_GRAPHS + 2, MAX_GRAPHS)
