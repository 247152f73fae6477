"""Weight decay: which parameters it acts on, and the L2 term of the loss.

Source: the official code's `det_model_fn` (`reg_l2_loss`).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn


def is_decayed(name: str, parameter: Tensor) -> bool:
    """Whether weight decay acts on a parameter: on kernels, but not on fusion weights, whatever their shape."""
    return parameter.ndim > 1 and not is_fusion_weights(name)


def is_fusion_weights(name: str) -> bool:
    """Whether a parameter holds fusion weights: the official code has a variable for every input of a node."""
    return name.endswith("edge_weights")


class L2:
    """The term weight_decay / 2 * sum of squares of all kernels, and its gradient.

    Args:
        named: {name: parameter} of the whole model.
        weight_decay: factor; 0 is no term.

    Its value counts frozen kernels, too, as the official one does; they get no gradient.
    """

    def __init__(self, named: Mapping[str, nn.Parameter], weight_decay: float) -> None:
        self.weight_decay = weight_decay
        self.kernels: list[Tensor] = [
            parameter for name, parameter in named.items() if weight_decay and is_decayed(name, parameter)
        ]

    @torch.no_grad()
    def value(self) -> Tensor | float:
        """Return the term, a 0-d tensor, or 0.0 where there is none."""
        if not self.kernels:
            return 0.0
        norms = torch.stack(torch._foreach_norm(self.kernels))
        return norms.square().sum() * (self.weight_decay / 2)

    @torch.no_grad()
    def add_gradient(self) -> None:
        """Add the gradient of the term to those of the loss; a frozen kernel has none."""
        pairs = [(kernel.grad, kernel) for kernel in self.kernels if kernel.grad is not None]
        if pairs:
            gradients, kernels = map(list, zip(*pairs, strict=True))
            torch._foreach_add_(gradients, kernels, alpha=self.weight_decay)
