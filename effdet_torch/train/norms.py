"""Batch norms for training: over the images of several processes, with either moving variance, or frozen.

The official trainer has several classes of batch norms. They normalise alike, with the biased variance of the batch;
they differ in what moves the statistics that inference uses:

    one device (TensorFlow's fused kernel)      n / (n - 1) times the batch's variance, as torch
    several devices (SyncBatchNormalization)    the biased variance of all images together
    TPU (TpuBatchNormalization)                 the same, over at most 32 cores

torch's `SyncBatchNorm` runs on GPUs only, moves n / (n - 1), and its conversion would drop the activations of
`ActivatedNorm`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm

from effdet_torch.errors import ConfigError, UsageError
from effdet_torch.network.layers import ActivatedNorm
from effdet_torch.processes import ALONE, Processes
from effdet_torch.train.recipe import Recipe

ONE_VALUE = "a batch norm sees one value per channel: its variance is 0, and nothing of the image is left"


@dataclass(frozen=True)
class NormRule:
    """How a batch norm is trained.

    Attributes:
        frozen: it uses and keeps its moving statistics; gamma and beta train.
        biased: the moving variance takes the batch's variance, instead of n / (n - 1) times that.
        processes: whose images are seen together.
    """

    frozen: bool = False
    biased: bool = False
    processes: Processes = ALONE


class TrainingNorm(nn.BatchNorm2d):
    """A batch norm that follows a rule in training; in eval mode nothing differs."""

    rule = NormRule()

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C, H, W); B may differ between the processes.

        Raises:
            ConfigError: There is one value per channel in all.
        """
        assert self.running_mean is not None
        assert self.running_var is not None
        if self.rule.frozen or not self.training:
            return F.batch_norm(features, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        seen = batch_statistics(features.detach(), self.rule.processes)
        self._move(seen)
        normalized: Tensor = _Normalize.apply(features, self.weight, self.bias, self.eps, seen, self.rule.processes)
        return normalized

    @torch.no_grad()
    def _move(self, seen: Statistics) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        variance = seen.variance if self.rule.biased else seen.variance * (seen.values / (seen.values - 1))
        self.running_mean.lerp_(seen.mean.to(self.running_mean.dtype), self.momentum)
        self.running_var.lerp_(variance.to(self.running_var.dtype), self.momentum)
        self.num_batches_tracked.add_(1)


class ActivatedTrainingNorm(TrainingNorm, ActivatedNorm):
    """The same with the activation after it."""

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C, H, W); see `TrainingNorm.forward`."""
        activated: Tensor = self.act(super().forward(features))
        return activated


# Modules change their class and stay the same objects: optimizers, hooks and state-dict keys are not disturbed.
TRAINING: Mapping[type[_BatchNorm], type[TrainingNorm]] = {
    nn.BatchNorm2d: TrainingNorm,
    ActivatedNorm: ActivatedTrainingNorm,
}
PLAIN: Mapping[type[_BatchNorm], type[_BatchNorm]] = {training: plain for plain, training in TRAINING.items()}


def prepare_norms(model: nn.Module, recipe: Recipe, processes: Processes = ALONE) -> None:
    """Make every batch norm of a model follow a recipe; keys of the state dict stay. Undone by `restore_norms`.

    Where the recipe wants what torch does anyway, the plain modules stay: torch's own code is the fastest.

    Args:
        model: an `EfficientDet`, or modules of one.
        recipe: `freeze_bn`, `is_biased` and `sync_bn` count.
        processes: which share a batch with `sync_bn`.

    Raises:
        UsageError: The model has a batch norm of another class.
    """
    restore_norms(model)
    synchronized = processes if recipe.sync_bn else ALONE
    rule = NormRule(recipe.freeze_bn, recipe.is_biased, synchronized)
    for name, norm in _norms(model).items():
        if type(norm) not in TRAINING:
            raise UsageError(
                f"{name} is a {type(norm).__name__}; expected a batch norm of an EfficientDet as create_model or "
                "load_model makes it; leave synchronised batch norms to sync_bn"
            )
        if rule != NormRule():
            norm.__class__ = TRAINING[type(norm)]
            vars(norm)["rule"] = rule


def restore_norms(model: nn.Module) -> None:
    """Give a model its plain batch norms back, with the statistics and parameters that they have by now."""
    for norm in _norms(model).values():
        if type(norm) in PLAIN:
            norm.__class__ = PLAIN[type(norm)]
            vars(norm).pop("rule")


def average_statistics(model: nn.Module, processes: Processes) -> None:
    """Give all processes the mean of their moving statistics, as TensorFlow does when it saves.

    Without `sync_bn` each process moves its own, and those of one would stand for its share of the images only. This
    belongs before every validation and every file. Moving averages are linear, so that it changes no later mean; with
    `sync_bn` all statistics are equal already. Averages of the weights hold statistics too: call it inside `swapped`.
    """
    if processes.count == 1:
        return
    for norm in _norms(model).values():
        for statistic in (norm.running_mean, norm.running_var):
            assert statistic is not None
            statistic.copy_(processes.sum(statistic) / processes.count)


def _norms(model: nn.Module) -> dict[str, _BatchNorm]:
    return {name: module for name, module in model.named_modules() if isinstance(module, _BatchNorm)}


class Statistics(NamedTuple):
    """Of a batch, over all axes but the channels.

    Attributes:
        mean: (C,).
        variance: (C,), biased.
        values: () number of values per channel.
    """

    mean: Tensor
    variance: Tensor
    values: Tensor


def batch_statistics(features: Tensor, processes: Processes = ALONE) -> Statistics:
    """Return the statistics of features (B, C, H, W) in all processes; the same bits in each of them.

    Every process sends its count, mean and variance once; sums of squares, which cancel, are not needed:
    variance = sum of count_r * (variance_r + (mean_r - mean)^2) / count.

    Raises:
        ConfigError: There is one value per channel in all.
    """
    values, channels = features.numel() // features.shape[1], features.shape[1]
    if values * processes.count == 1:
        raise ConfigError(
            f"{ONE_VALUE}; take more images or larger ones, --sync-bn in several processes, or --freeze-bn"
        )
    if features.device.type == "cpu":  # where 16-bit features would have 16-bit statistics
        features = features.to(torch.promote_types(features.dtype, torch.float32))
    mean, variance = torch.batch_norm_update_stats(features, None, None, 0.0)
    own = torch.cat([mean, variance, mean.new_tensor([values])])
    parts = torch.stack(processes.all(own))
    means, variances, counts = parts[:, :channels], parts[:, channels:-1], parts[:, -1:]
    shares = counts / counts.sum()
    mean = (shares * means).sum(0)
    return Statistics(mean, (shares * (variances + (means - mean).square())).sum(0), counts.sum())


class _Normalize(torch.autograd.Function):
    """Normalise by the statistics of the batch, whose gradient passes through the images of all processes.

    With x^ = (x - mean) / sqrt(variance + eps), the gradient of the sum of the losses of all processes is
    dx = gamma / sqrt(variance + eps) * (dy - mean of dy - x^ * mean of dy x^), the means over all processes. Those of
    gamma and beta are this process's part, as of all parameters: DistributedDataParallel adds them up.
    """

    @staticmethod
    def forward(
        ctx: Any, features: Tensor, weight: Tensor, bias: Tensor, eps: float, seen: Statistics, processes: Processes
    ) -> Tensor:
        ctx.save_for_backward(features, weight, *seen)
        ctx.eps, ctx.processes = eps, processes
        return F.batch_norm(features, seen.mean, seen.variance, weight, bias, eps=eps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        features, weight, mean, variance, count = ctx.saved_tensors
        inverse = torch.rsqrt(variance + ctx.eps)
        # As if the statistics were constants: gamma / sqrt(variance + eps) * dy, sum of dy x^, sum of dy.
        direct, weight_part, bias_part = torch.ops.aten.native_batch_norm_backward(
            gradient, features, weight, mean, variance, mean, inverse, False, ctx.eps, [True, True, True]
        )
        product_mean, gradient_mean = ctx.processes.sum(torch.stack([weight_part, bias_part])) / count
        factor = -weight * inverse
        through = F.batch_norm(features, mean, variance, factor * product_mean, factor * gradient_mean, eps=ctx.eps)
        return direct.add_(through), weight_part, bias_part, None, None, None
