"""Whether a model still holds the tensors that something was made from."""

from __future__ import annotations

from itertools import chain

from torch import Tensor, nn


class TensorState:
    """The tensors of a model at one moment, and how often each had been changed in place.

    PyTorch counts changes of a tensor, but not those through `.data`, and none of tensors made in inference mode.

    Args:
        model: whose parameters and buffers are remembered.
    """

    def __init__(self, model: nn.Module) -> None:
        # The dictionaries, because walking through the modules takes ten times as long as looking at the tensors.
        self._owners = [owner for module in model.modules() for owner in (module._parameters, module._buffers) if owner]
        self._seen = self._now()

    def is_current(self) -> bool:
        """Whether the model has the same tensors, unchanged; one of another module is not noticed."""
        now = self._now()
        return len(now) == len(self._seen) and all(
            tensor is other and count == before
            for (tensor, count), (other, before) in zip(now, self._seen, strict=True)
        )

    def _now(self) -> list[tuple[Tensor, int]]:
        tensors = chain.from_iterable(owner.values() for owner in self._owners)
        return [(tensor, 0 if tensor.is_inference() else tensor._version) for tensor in tensors if tensor is not None]
