"""The comparisons of layers, gathered by run and by layer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import product
from typing import get_args

from verify.report.content.text import number
from verify.results.verification import MODES, LayerResult, Mode, Precision, Verification

PARTS: Mapping[str, str] = {
    "backbone": "Backbone",
    "fpn": "BiFPN",
    "class_net": "Class head",
    "box_net": "Box head",
    "seg_head": "Segmentation head",
}
RUN_ORDER: tuple[tuple[Mode, Precision], ...] = tuple(product(MODES, get_args(Precision)))


@dataclass(frozen=True)
class Run:
    """All layers of one pass through the network: one mode, one dtype."""

    mode: Mode
    dtype: Precision
    layers: tuple[LayerResult, ...]

    @property
    def name(self) -> str:
        """Mode and dtype."""
        return f"{self.mode}, {self.dtype}"

    @property
    def failed(self) -> int:
        """How many layers exceed their tolerance."""
        return sum(not layer.passed for layer in self.layers)

    @property
    def worst(self) -> LayerResult:
        """The layer furthest beyond its tolerance, or closest to it."""
        return max(self.layers, key=excess)


def runs(verification: Verification) -> list[Run]:
    """Return the runs that took place, the strictest first."""
    found = (Run(*run, tuple(x for x in verification.layers if (x.mode, x.dtype) == run)) for run in RUN_ORDER)
    return [run for run in found if run.layers]


def by_layer(layers: Iterable[LayerResult]) -> list[list[LayerResult]]:
    """Gather the comparisons of each layer; layers come in the order of their first comparison."""
    gathered: dict[tuple[int, str, str], list[LayerResult]] = {}
    for layer in layers:
        gathered.setdefault((layer.order, layer.name, layer.torch), []).append(layer)
    return list(gathered.values())


def excess(layer: LayerResult) -> float:
    """Return error over tolerance; infinite where the error is NaN."""
    error = layer.measures.max_over_rms
    if layer.tolerance <= 0 or error != error:
        return 0.0 if error == 0 else float("inf")
    return error / layer.tolerance


def part(layer: LayerResult) -> str:
    """Return the part of the network that a layer belongs to, as shown to people."""
    root = layer.torch.partition(".")[0]
    return PARTS.get(root, root)


def failure_sentence(layer: LayerResult) -> str:
    """Return by how much and where a layer differs."""
    found = layer.measures
    return (
        f"error {number(found.max_over_rms)}, allowed {number(layer.tolerance)}; worst at NHWC {found.worst}: "
        f"expected {found.expected:.7g}, found {found.found:.7g}"
    )
