"""What each of several processes does in the tests of batch norms."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from effdet_torch.network.layers import ActivatedNorm
from effdet_torch.processes import ALONE, Processes
from effdet_torch.train.norms import average_statistics, prepare_norms
from effdet_torch.train.recipe import Recipe

SIZES = ((2, 4, 3), (1, 5, 2), (3, 2, 2))  # images, height, width of each process


def norm(kind: str) -> nn.BatchNorm2d:
    """A batch norm whose parameters and statistics are all different."""
    generator = torch.Generator().manual_seed(0)
    made = nn.BatchNorm2d(5, eps=1e-3, momentum=0.01) if kind == "plain" else ActivatedNorm(5, "swish")
    with torch.no_grad():
        for tensor in (made.weight, made.bias, made.running_mean, made.running_var):
            tensor.copy_(torch.rand(5, generator=generator) + 0.5)
    return made.double()


def inputs(rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Features of a process, far from 0, where sums of squares would cancel; and the gradient of its outputs."""
    images, height, width = SIZES[rank]
    drawn = torch.randn(2, images, 5, height, width, generator=torch.Generator().manual_seed(rank), dtype=torch.float64)
    return drawn[0] * (1 + rank) + 100 * rank, drawn[1]


def run_norm(made: nn.Module, features: torch.Tensor, gradient: torch.Tensor) -> dict[str, Any]:
    """Forward and backward."""
    features = features.clone().requires_grad_()
    outputs = made(features)
    outputs.backward(gradient)
    found = {"outputs": outputs, "features": features.grad}
    found |= {name: parameter.grad for name, parameter in made.named_parameters()}
    found |= {name: buffer.clone() for name, buffer in made.named_buffers()}
    wide = {name: tensor.to(torch.promote_types(tensor.dtype, torch.float32)) for name, tensor in found.items()}
    return {name: tensor.detach().numpy() for name, tensor in wide.items()}


def train_norm(processes: Processes, kind: str, variance: str, synchronized: bool) -> dict[str, Any]:
    """Run a norm on this process's images; the second process has them in another layout."""
    made = nn.Sequential(norm(kind))
    prepare_norms(made, Recipe(sync_bn=synchronized, bn_variance=variance), processes)  # type: ignore[arg-type]
    features, gradient = inputs(processes.rank)
    if processes.rank == 1:
        features = features.contiguous(memory_format=torch.channels_last)
    return run_norm(made[0], features, gradient)


def averaged_statistics(processes: Processes) -> list[list[float]]:
    """Statistics that differ between the processes, averaged."""
    made = nn.BatchNorm2d(2)
    made.running_mean = torch.tensor([1.0, 2.0]) * (processes.rank + 1)
    average_statistics(made, ALONE)
    own = made.running_mean.tolist()
    average_statistics(made, processes)
    return [own, made.running_mean.tolist()]
