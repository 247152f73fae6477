"""The two official clips of gradients: of every variable, then of all together.

Source: the official code's `det_model_fn` (`clip_gradients_norm`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from effdet_torch.train.updates.decay import is_fusion_weights


def official_variables(named: Mapping[str, nn.Parameter]) -> list[Tensor]:
    """Return the gradients of parameters, in pieces that are variables of their own in the official code.

    Fusion weights are one parameter per node here, and one variable per input of a node there. The pieces are views.
    """
    pieces: list[Tensor] = []
    for name, parameter in named.items():
        if parameter.grad is not None:
            pieces += parameter.grad.unbind() if is_fusion_weights(name) else [parameter.grad]
    return pieces


@torch.no_grad()
def clip_gradients(gradients: Sequence[Tensor], limit: float) -> Tensor:
    """Scale gradients in place: each to a norm of at most `limit`, then all of them together.

    Args:
        gradients: from `official_variables`; any shapes, one floating-point type and device.
        limit: largest norm; 0 clips nothing.

    Returns:
        The norm of all gradients before the clips, a 0-d tensor; not finite if any of them is not, and then nothing is
        scaled.
    """
    norms = torch.stack(torch._foreach_norm(list(gradients)))
    before: Tensor = torch.linalg.vector_norm(norms)
    # The clipped gradients have to be as long as `limit`: no epsilon, as PyTorch's own clip has.
    factors = limit / norms.clamp(min=limit) if limit else torch.ones_like(norms)
    together = torch.linalg.vector_norm(norms * factors)
    if limit and bool(torch.isfinite(before)) and bool((factors < 1).any() | (together > limit)):
        factors = factors * (limit / together.clamp(min=limit))
        torch._foreach_mul_(list(gradients), list(factors.unbind()))
    return before
