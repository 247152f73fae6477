"""What the losses are divided by: the number of positive anchors."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from effdet_torch.train.objective.targets import Targets


def normalizer_of(targets: Targets) -> Tensor:
    """Return the number of positive anchors in a batch plus 1, (), so that a batch without boxes can be divided."""
    return targets.positives.sum() + 1


class MovingNormalizer(nn.Module):
    """A moving average of the normaliser, in the place of the batch's own (`positives_momentum`).

    It starts at 0, and nothing corrects that: the first losses are 1 / (1 - momentum) times as large.

    Args:
        momentum: part of the average that an update keeps, 0 to 1.
    """

    value: Tensor

    def __init__(self, momentum: float) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer("value", torch.zeros((), dtype=torch.float64))

    @torch.no_grad()
    def forward(self, normalizer: Tensor | float) -> Tensor:
        """Return the average, (), after the normaliser of an update has entered it."""
        self.value += (1 - self.momentum) * (normalizer - self.value)
        return self.value.clone()
