"""What must hold before anything is timed: activations that are alive, equal outputs, equal detections."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from effdet_torch.network.model import EfficientDet


def enliven(model: EfficientDet) -> None:
    """Give batch norms the statistics of noise, and switch to eval mode; initial ones let activations die."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        model.train()(torch.randn(2, 3, 256, 256))
    model.eval().requires_grad_(requires_grad=False)


def max_over_rms(found: Any, expected: Any) -> float:
    """Return the largest error of all levels, over the root mean square of the level; of the images expected."""
    pairs = [pair for heads in zip(found, expected, strict=True) for pair in zip(*heads, strict=True)]
    levels = [(torch.as_tensor(a)[: len(b)].double(), b) for a, b in pairs]
    return max(float((a - b).abs().max() / b.square().mean().sqrt()) for a, b in levels)


def require_same(theirs: NDArray[np.float32], ours: NDArray[np.float32], where: str) -> None:
    """Refuse detections, (N, 6) boxes, score and class, of which one has no equal on the other side."""
    least = max(theirs[:, 4].min(), ours[:, 4].min()) + 1e-5  # equal scores at the end of a list may fall out of it
    for one, other in ((theirs, ours), (ours, theirs)):
        for row in one[one[:, 4] > least]:
            if not (np.abs(other - row) < [0.05, 0.05, 0.05, 0.05, 1e-4, 0.5]).all(axis=1).any():
                raise SystemExit(f"{where}: only one side detects {row}")
