"""Optimizers: SGD and AdamW are PyTorch's; Adam is the official one, which differs from PyTorch's."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer

from effdet_torch.train.recipe import Recipe
from effdet_torch.train.updates.decay import is_decayed

ADAM_BETAS = (0.9, 0.999)
ADAM_EPS = 1e-8


class OfficialAdam(Optimizer):
    """Adam as TensorFlow computes it: epsilon is added to the square root before the bias correction.

    With first moment m, second moment v and the number of updates t:
    w -= lr * sqrt(1 - b2^t) / (1 - b1^t) * m / (sqrt(v) + eps).
    `torch.optim.Adam` corrects v first, which changes the steps of gradients as small as epsilon. The powers of b1 and
    b2 are float32 numbers, whatever is trained.

    Args:
        params: what is trained, with gradients in one floating-point type.
        lr: learning rate, which can be changed between updates.
        betas: decay of the first and the second moment.
        eps: added to the root of the second moment.

    Source: Adam (arXiv:1412.6980), the last paragraph of section 2.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        betas: tuple[float, float] = ADAM_BETAS,
        eps: float = ADAM_EPS,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "powers": (1.0, 1.0)})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """Update all parameters that have a gradient."""
        for group in self.param_groups:
            beta1, beta2 = map(np.float32, group["betas"])
            power1, power2 = map(np.float32, group["powers"])
            group["powers"] = float(power1 * beta1), float(power2 * beta2)
            self._update(group, float(beta1), float(beta2))

    def _update(self, group: dict[str, Any], beta1: float, beta2: float) -> None:
        parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
        if not parameters:
            return
        gradients: list[Tensor] = [parameter.grad for parameter in parameters]
        for parameter in parameters:
            if not self.state[parameter]:
                self.state[parameter].update(first=torch.zeros_like(parameter), second=torch.zeros_like(parameter))
        first, second = ([self.state[parameter][name] for parameter in parameters] for name in ("first", "second"))
        torch._foreach_lerp_(first, gradients, 1 - beta1)
        torch._foreach_mul_(second, beta2)
        torch._foreach_addcmul_(second, gradients, gradients, 1 - beta2)
        roots = torch._foreach_sqrt(second)
        torch._foreach_add_(roots, group["eps"])
        power1, power2 = group["powers"]
        rate = group["lr"] * math.sqrt(1 - power2) / (1 - power1)
        torch._foreach_addcdiv_(parameters, first, roots, -rate)


def _sgd(named: Mapping[str, nn.Parameter], recipe: Recipe) -> Optimizer:
    return torch.optim.SGD(named.values(), lr=0.0, momentum=recipe.momentum, foreach=True)


def _adam(named: Mapping[str, nn.Parameter], recipe: Recipe) -> Optimizer:
    return OfficialAdam(named.values(), lr=0.0)


def _adamw(named: Mapping[str, nn.Parameter], recipe: Recipe) -> Optimizer:
    decayed = [parameter for name, parameter in named.items() if is_decayed(name, parameter)]
    kept = [parameter for name, parameter in named.items() if not is_decayed(name, parameter)]
    groups = [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": kept, "weight_decay": 0.0}]
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=0.0, foreach=True)


OPTIMIZERS: Mapping[str, Callable[[Mapping[str, nn.Parameter], Recipe], Optimizer]] = {
    "sgd": _sgd,
    "adam": _adam,
    "adamw": _adamw,
}
# Their weight decay is not a part of the loss.
DECOUPLED = ("adamw",)


def make_optimizer(named: Mapping[str, nn.Parameter], recipe: Recipe) -> Optimizer:
    """Return the optimizer of a recipe for {name: parameter}; its learning rate is 0 until it is set.

    L2 is left to `effdet_torch.train.updates.decay`, except that "adamw" does its own weight decay.
    """
    return OPTIMIZERS[recipe.optimizer](named, recipe)


def set_learning_rate(optimizer: Optimizer, rate: float) -> None:
    """Set the learning rate of the next update."""
    for group in optimizer.param_groups:
        group["lr"] = rate
