"""Look at the values of a source while they are converted: there is no second pass."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from converter.errors import UnusableValuesError
from converter.plan.copies import View
from converter.plan.expand import Plan
from converter.source import SourceView, VariableSource
from effdet_torch.values import ValueCheck, described


class CheckedSource(SourceView):
    """A source whose values are looked at when they are read.

    Args:
        source: where the values are.
        plan: what is converted.
        view: the copy that is converted.
    """

    def __init__(self, source: VariableSource, plan: Plan, view: View) -> None:
        super().__init__(source)
        self._check = ValueCheck()
        self._stored = tuple(view.stored[name] for name in plan.variables)
        self._variances = {view.stored[name] for name in plan.variances}

    def read(self, name: str) -> NDArray[Any]:
        """Return a variable after a look at its values."""
        array = super().read(name)
        self._check.look(name, array, name in self._variances)
        return array

    def faults(self) -> dict[str, str]:
        """Read everything that is converted, and return {stored name: what is wrong with its values}."""
        for name in self._stored:
            self.read(name)
        return self._check.found()

    def require_usable(self) -> None:
        """Raise if a network could not use what was read so far.

        Raises:
            UnusableValuesError: Values are not finite, variances are negative, or all kernels are zero.
        """
        if faults := self._check.found():
            raise UnusableValuesError(
                f"{self.path} holds {described(faults)}; nothing was written. Convert an earlier checkpoint of this "
                "training; --allow-nonfinite converts this one as it is"
            )
