"""The geometry of the plot of errors along the network, which templates/plot.svg.j2 draws.

Not by matplotlib: this way the page's style sheet colours the plot (light, dark, printed), the same verification always
gives the same file, and nothing that imports slowly or needs a font has to be installed for one picture.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import ClassVar

from verify.report.content.layers import Run, part
from verify.results.verification import LayerResult

MAX_TICKS = 10
TITLES = {
    "cumulative": "Cumulative: both networks on the same input",
    "isolated": "Isolated: every PyTorch layer on TensorFlow's own input",
    "fused": "Fused: the network for inference against the model in float64",
    "exported": "Exported: the file in its runtime against the reference in float64",
}


@dataclass(frozen=True)
class Panel:
    """The runs of one mode, over execution order and on a logarithmic axis.

    Positions are in the units of the drawing, from the panel's upper left corner. Zero is drawn at the bottom of the
    axis, a non-finite error at its top.
    """

    title: str
    runs: Sequence[Run]
    width: ClassVar[int] = 910
    height: ClassVar[int] = 200

    @cached_property
    def layers(self) -> list[LayerResult]:
        """All comparisons."""
        return [layer for run in self.runs for layer in run.layers]

    @cached_property
    def count(self) -> int:
        """How many layers the horizontal axis has room for."""
        return 1 + max(layer.order for layer in self.layers)

    @cached_property
    def limits(self) -> tuple[float, float]:
        """Lowest and highest power of ten, beyond all errors and tolerances that a logarithmic axis can show."""
        values = [value for layer in self.layers for value in (layer.measures.max_over_rms, layer.tolerance)]
        powers = [math.log10(value) for value in values if 0 < value < math.inf]
        return min(powers, default=-17) - 0.7, max(powers, default=0) + 0.7

    def x(self, order: float) -> float:
        """Return the horizontal position of a layer."""
        return round((order + 0.5) / self.count * self.width, 1)

    def y(self, error: float) -> float:
        """Return the vertical position of an error or a tolerance."""
        low, high = self.limits
        if not math.isfinite(error):
            return 0.0
        power = math.log10(error) if error > 0 else low
        return round((high - power) / (high - low) * self.height, 1)

    @property
    def powers(self) -> range:
        """Powers of ten that get a line across."""
        low, high = math.ceil(self.limits[0]), math.floor(self.limits[1])
        return range(low, high + 1, _step(high - low))

    @property
    def orders(self) -> range:
        """Positions in execution order that get a tick."""
        return range(0, self.count, _step(self.count))

    @property
    def parts(self) -> Iterator[tuple[str, float, float]]:
        """Name, start and width of every stretch of the network."""
        for name, group in groupby(sorted(self.layers, key=lambda layer: layer.order), part):
            orders = [layer.order for layer in group]
            start = self.x(orders[0] - 0.5)
            yield name, start, self.x(orders[-1] + 0.5) - start

    @property
    def first_failure(self) -> int | None:
        """The first layer that exceeds its tolerance."""
        return min((layer.order for layer in self.layers if not layer.passed), default=None)

    def errors(self, layers: Iterable[LayerResult]) -> Iterator[tuple[float, float]]:
        """Yield the position of every layer's error."""
        return ((self.x(layer.order), self.y(layer.measures.max_over_rms)) for layer in layers)


def panels(runs: Sequence[Run]) -> list[Panel]:
    """Return a panel for every mode that took place."""
    found = ((title, [run for run in runs if run.mode == mode]) for mode, title in TITLES.items())
    return [Panel(title, of_mode) for title, of_mode in found if of_mode]


def _step(span: int) -> int:
    """Return the smallest of 1, 2, 5, 10, 20, ... that divides a span into at most ten."""
    steps = (digit * int(10**power) for power in range(9) for digit in (1, 2, 5))
    return next(step for step in steps if span / step <= MAX_TICKS)
