"""Whether a model still holds the modules and tensors that something was made from."""

from __future__ import annotations

from itertools import chain

from torch import Tensor, nn


class TensorState:
    """The modules and tensors of a model at one moment, and how often each tensor had been changed in place.

    PyTorch counts changes of a tensor, but not those through `.data`, and none of tensors made in inference mode.

    Args:
        model: whose modules, parameters and buffers are remembered.

    Attributes:
        modules: the model and all modules in it.
    """

    def __init__(self, model: nn.Module) -> None:
        # The dictionaries, because walking through the modules takes ten times as long as looking at the tensors.
        self.modules = list(model.modules())
        owners = ((module._modules, module._parameters, module._buffers) for module in self.modules)
        self._owners = [owner for three in owners for owner in three if owner]
        self._seen = self._now()

    def is_current(self) -> bool:
        """Whether the model has the same modules, and the same tensors, unchanged."""
        now = self._now()
        return len(now) == len(self._seen) and all(
            part is other and count == before for (part, count), (other, before) in zip(now, self._seen, strict=True)
        )

    def _now(self) -> list[tuple[Tensor | nn.Module, int]]:
        parts = chain.from_iterable(owner.values() for owner in self._owners)
        return [(part, _changes(part)) for part in parts if part is not None]


def _changes(part: Tensor | nn.Module) -> int:
    return 0 if isinstance(part, nn.Module) or part.is_inference() else part._version
