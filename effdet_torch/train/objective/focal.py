"""Focal loss of one level, with little more memory than its gradient.

Nearly all logits belong to the background, so there is no one-hot copy of them: loss and gradient of the background
are computed together, in pieces that stay in the CPU's cache, and corrected at the few entries of objects.

Source: Lin et al. (arXiv:1708.02002); EfficientDet official code, `focal_loss`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from effdet_torch.train.objective.levels import Index
from effdet_torch.train.recipe import Recipe

PIECE = {"cpu": 1 << 17}  # numbers; several temporaries of this size exist at once
LARGE_PIECE = 1 << 22  # on other devices a start of a kernel takes longer than to move the numbers
WIDE = (torch.float32, torch.float64)


class Focal(NamedTuple):
    """The settings of the focal loss: weight of objects, exponent, and what the cross entropy's target is moved by."""

    alpha: float
    gamma: float
    smoothing: float

    @classmethod
    def of(cls, recipe: Recipe) -> Focal:
        """Return the settings of a recipe."""
        return cls(recipe.alpha, recipe.gamma, recipe.label_smoothing)

    def background(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss of logits whose target is 0, and its derivative; both like `logits`."""
        log_rest, chance = F.logsigmoid(-logits), torch.sigmoid(logits)
        entropy = -log_rest if self.smoothing == 0 else -log_rest - logits * (self.smoothing / 2)
        weight = chance.pow(self.gamma).mul_(1 - self.alpha)
        slope = (1 - chance).mul_(entropy).mul_(self.gamma).add_(chance)
        if self.smoothing != 0:
            slope -= self.smoothing / 2
        return entropy.mul_(weight), slope.mul_(weight)

    def objects(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Return the same of logits whose target is 1: the background's of the opposite logits, weighted by alpha."""
        loss, slope = self._replace(alpha=1 - self.alpha).background(-logits)
        return loss, -slope


def focal_sum(logits: Tensor, objects: Index, ignored: Index, focal: Focal) -> Tensor:
    """Return the sum of the focal loss over all logits of a level.

    Its gradient has its own formula and cannot be differentiated again. 16-bit logits are computed in float32.

    Args:
        logits: (B, anchors * classes, H, W) in any layout; NHWC is worked on as it is.
        objects: the entries whose target is 1.
        ignored: the entries that are left out.
        focal: the settings.

    Returns:
        () in float32, or float64 for float64 logits.
    """
    total: Tensor = _FocalSum.apply(logits, objects, ignored, focal)
    return total


class _FocalSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, objects: Index, ignored: Index, focal: Focal) -> Tensor:
        dtype = logits.dtype if logits.dtype in WIDE else torch.float32
        logits = logits if _is_dense(logits) else logits.contiguous()
        slopes = torch.empty_like(logits, dtype=dtype)
        size = PIECE.get(logits.device.type, LARGE_PIECE)
        sums = []
        for piece, slope in zip(*(torch.split(_flat(values), size) for values in (logits, slopes)), strict=True):
            loss, derivative = focal.background(piece.to(dtype))
            slope.copy_(derivative)
            sums.append(loss.sum())
        at_objects, at_ignored = logits[objects].to(dtype), logits[ignored].to(dtype)
        loss, slopes[objects] = focal.objects(at_objects)
        slopes[ignored] = 0
        sums += [loss.sum(), *(-focal.background(entries)[0].sum() for entries in (at_objects, at_ignored))]
        ctx.save_for_backward(slopes)
        ctx.dtype = logits.dtype
        return torch.stack(sums).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor, None, None, None]:
        (slopes,) = ctx.saved_tensors
        return (slopes * outer).to(ctx.dtype), None, None, None


def _is_dense(values: Tensor) -> bool:
    """Whether a tensor (B, C, H, W) is stored without gaps, in the order NCHW or NHWC."""
    return values.is_contiguous() or values.is_contiguous(memory_format=torch.channels_last)


def _flat(values: Tensor) -> Tensor:
    """Return the numbers of a dense tensor in the order of its memory, as a view."""
    return (values if values.is_contiguous() else values.permute(0, 2, 3, 1)).view(-1)
