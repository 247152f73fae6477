"""Networks with random weights whose activations neither die nor explode, and how far two outputs differ."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from effdet_torch.network.model import EfficientDet

Outputs = Any  # tensors in tuples and lists, see `EfficientDet.forward`


def alive(model: EfficientDet, seed: int = 0) -> EfficientDet:
    """Give batch norms the statistics of noise, and every tensor values of its own; in place, in eval mode."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(tensor: Tensor, low: float, high: float) -> None:
        tensor.copy_(torch.rand(tensor.shape, generator=generator) * (high - low) + low)

    def observe(norm: nn.Module, inputs: Any) -> None:
        assert isinstance(norm, nn.BatchNorm2d)
        norm.running_mean.copy_(inputs[0].mean((0, 2, 3)))  # type: ignore[union-attr]
        norm.running_var.copy_(inputs[0].var((0, 2, 3)) + 1e-3)  # type: ignore[union-attr]

    with torch.no_grad():
        for key, tensor in model.state_dict().items():
            if "edge_weights" in key:
                uniform(tensor, -0.2, 1.0)
            elif tensor.ndim == 4:
                tensor.copy_(torch.randn(tensor.shape, generator=generator) / tensor[0].numel() ** 0.5)
            elif key.endswith(".bias"):
                uniform(tensor, -0.2, 0.2)
            elif key.endswith(".weight"):
                uniform(tensor, 0.7, 1.3)
        norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
        hooks = [norm.register_forward_pre_hook(observe) for norm in norms]
        model.eval()(torch.randn(2, 3, 128, 128, generator=generator, dtype=next(model.parameters()).dtype))
    for hook in hooks:
        hook.remove()
    return model


def max_over_rms(found: Outputs, expected: Outputs) -> float:
    """Return the largest error of all levels, over the root mean square of the level."""
    pairs = zip(tree_leaves(found), tree_leaves(expected), strict=True)
    return max(float((one - other).abs().max() / other.square().mean().sqrt()) for one, other in pairs)
