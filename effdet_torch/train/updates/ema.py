"""Exponential moving averages of the weights, which are what is evaluated and published.

Source: the official code's `ExponentialMovingAverage` with `num_updates` in `det_model_fn`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from effdet_torch.errors import ConfigError, listed


class Averages:
    """Averages of all parameters, frozen ones too, and of all floating-point buffers: the batch norms' statistics.

    Counters (`num_batches_tracked`) are not averaged.

    Args:
        model: whose values are averaged, and its start.
        decay: part of the old average in the new one, after many steps.
        start: other values to start from, by name; the model's where a name is missing.

    Attributes:
        values: {name: average}, in the order of the model.

    Raises:
        ConfigError: `start` has a name or shape that the model does not have.
    """

    def __init__(self, model: nn.Module, decay: float, start: Mapping[str, Tensor] | None = None) -> None:
        self.decay = decay
        self.values = {name: tensor.detach().clone() for name, tensor in averaged(model).items()}
        self.load_state_dict({**self.values, **(start or {})})

    def decay_at(self, step: int) -> float:
        """Return the decay after the update number `step`, counted from 1; it is small at first."""
        return min(self.decay, (1 + step) / (10 + step))

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Move the averages towards the model after the update number `step`, counted from 1."""
        torch._foreach_lerp_(list(self.values.values()), list(averaged(model).values()), 1 - self.decay_at(step))

    @contextmanager
    def swapped(self, model: nn.Module) -> Iterator[None]:
        """Let the model compute with the averages inside a `with`; nothing is copied.

        Inside, this object holds the model's own values.
        """
        self._exchange(model)
        try:
            yield
        finally:
            self._exchange(model)

    @torch.no_grad()
    def copy_to(self, model: nn.Module) -> None:
        """Overwrite the model's values by the averages."""
        for name, tensor in averaged(model).items():
            tensor.copy_(self.values[name])

    def state_dict(self) -> dict[str, Tensor]:
        """Return {name: average}; the tensors are the ones that `update` changes."""
        return dict(self.values)

    @torch.no_grad()
    def load_state_dict(self, values: Mapping[str, Tensor]) -> None:
        """Take averages over, by name.

        Raises:
            ConfigError: Names or shapes are not the model's.
        """
        wrong = [name for name in values if name not in self.values or values[name].shape != self.values[name].shape]
        if wrong or len(values) != len(self.values):
            missing = [name for name in self.values if name not in values]
            raise ConfigError(
                f"the moving averages do not fit the model: {listed(wrong + missing)}; expected a tensor of the "
                "model's shape for each of its parameters and floating-point buffers"
            )
        for name, value in values.items():
            self.values[name].copy_(value)

    def _exchange(self, model: nn.Module) -> None:
        for name, tensor in averaged(model).items():
            tensor.data, self.values[name].data = self.values[name].data, tensor.data


def averaged(model: nn.Module) -> dict[str, Tensor]:
    """Return {name: tensor} of what is averaged: parameters, then floating-point buffers."""
    buffers = {name: buffer for name, buffer in model.named_buffers() if buffer.is_floating_point()}
    return {**dict(model.named_parameters()), **buffers}
