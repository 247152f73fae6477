"""Values that no trained network has: NaN, infinite ones, negative variances, nothing but zeros in all kernels.

A training that diverged, or that was interrupted while it saved, leaves them; a network with them runs without an error
and finds nothing, or anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from effdet_torch.errors import listed

KERNELS = "all kernels"
MOST_NAMED = 3


class ValueCheck:
    """Looks at the tensors of one network, one after another.

    Attributes:
        faults: {name: what is wrong with its values} so far.
    """

    def __init__(self) -> None:
        self.faults: dict[str, str] = {}
        self._kernels, self._has_values = 0, False

    def look(self, name: str, array: NDArray[Any], is_variance: bool = False) -> None:
        """Check one tensor; one with four axes is a kernel."""
        if not np.isfinite(array).all():
            self.faults[name] = f"{np.count_nonzero(~np.isfinite(array))} of {array.size} values are not finite"
        elif is_variance and (array < 0).any():
            self.faults[name] = f"{np.count_nonzero(array < 0)} of {array.size} variances are negative"
        if array.ndim == 4:
            self._kernels += 1
            self._has_values = self._has_values or bool(array.any())

    def found(self) -> dict[str, str]:
        """Return all faults, once every tensor was looked at."""
        zeros = {KERNELS: f"all {self._kernels} hold nothing but zeros"}
        return {**self.faults, **(zeros if self._kernels and not self._has_values else {})}


def described(faults: Mapping[str, str]) -> str:
    """Return faults in words: how many, and the first names."""
    texts = (f"{name}: {fault}" for name, fault in faults.items())
    return f"values that no network can use ({len(faults)} found: {listed(texts, MOST_NAMED, '; ')})"
