"""`torch.compile`, whose results are compared before they are used."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from effdet_torch.errors import EffdetError

# max |compiled - eager| over rms(eager) of a level's outputs, by the dtype they were computed in.
TOLERANCES = {torch.float64: 1e-10, torch.float32: 1e-3, torch.float16: 0.1, torch.bfloat16: 0.5}

Outputs = Any  # tensors in tuples and lists, as `EfficientDet.forward` returns them


class CompiledNetwork:
    """A network through `torch.compile`; the first outputs of every shape are compared with the network's own.

    Args:
        network: maps a tensor to tensors, see `EfficientDet.forward`.

    Raises:
        EffdetError: From a call: an output differs by more than `TOLERANCES` allows.
    """

    def __init__(self, network: nn.Module) -> None:
        self._network, self._compiled = network, torch.compile(network, dynamic=False)
        self._compared = set[torch.Size]()

    def __call__(self, pixels: Tensor) -> Outputs:
        """Return what the network returns for pixels (B, 3, H, W)."""
        outputs: Outputs = self._compiled(pixels)
        if pixels.shape not in self._compared:
            require_equal(outputs, self._network(pixels), "torch.compile")
            self._compared.add(pixels.shape)
        return outputs


def require_equal(found: Outputs, expected: Outputs, what: str) -> None:
    """Refuse outputs that differ from those of the network.

    Raises:
        EffdetError: They do, or hold values that are not finite.
    """
    for index, (output, target) in enumerate(zip(tree_leaves(found), tree_leaves(expected), strict=True)):
        tolerance = TOLERANCES[target.dtype]
        rms = target.double().square().mean().sqrt()
        error = float((output.double() - target.double()).abs().max() / rms)
        if not error <= tolerance:
            raise EffdetError(
                f"{what} changes output {index} of the network: off by {error:.1e} of its rms, and {tolerance:.0e} is "
                "allowed; run without it"
            )
