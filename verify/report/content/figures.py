"""The figures of the HTML page, as plain data; the template draws each kind with a macro of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from effdet_torch.metrics.classes import ClassMetrics
from verify.report.content.layers import Run
from verify.report.content.text import percent
from verify.results.details import Confusion, ShownImage

SIDE = 100  # of a drawing of curves


@dataclass(frozen=True)
class Figure:
    """A figure; its kind chooses the macro that draws it."""

    kind: ClassVar[str]


@dataclass(frozen=True)
class LayerPlot(Figure):
    """The errors of layers along the network, see `verify.report.content.plots`."""

    runs: tuple[Run, ...]
    kind: ClassVar[str] = "layers"


@dataclass(frozen=True)
class CurvePanel:
    """Precision over recall of one class, or the mean of several.

    Attributes:
        title: name and AP.
        curves: {IoU: (101,) precision at recall 0, 0.01, ... 1}.
    """

    title: str
    curves: Mapping[str, Sequence[float]]

    @classmethod
    def of_class(cls, each: ClassMetrics) -> CurvePanel:
        """Return the curves of a class."""
        curves = {iou: curve.precision for iou, curve in each.curves.items()}
        return cls(f"{each.name}: AP {percent(each.metrics['AP'])}", curves)

    @classmethod
    def mean(cls, panels: Sequence[CurvePanel]) -> CurvePanel:
        """Return the mean of several curves at every recall."""
        curves = {
            iou: [sum(values) / len(panels) for values in zip(*(panel.curves[iou] for panel in panels), strict=True)]
            for iou in panels[0].curves
        }
        return cls(f"mean of {len(panels)}", curves)

    @property
    def points(self) -> Mapping[str, Sequence[tuple[float, float]]]:
        """{IoU: (x, y) in a drawing of 100 x 100, from its upper left corner}."""
        return {
            iou: [(n, round(SIDE * (1 - precision), 1)) for n, precision in enumerate(curve)]
            for iou, curve in self.curves.items()
        }


@dataclass(frozen=True)
class Curves(Figure):
    """Precision over recall, a panel for every class."""

    panels: tuple[CurvePanel, ...]
    kind: ClassVar[str] = "curves"


@dataclass(frozen=True)
class Matrix(Figure):
    """A confusion matrix, without the classes that have neither objects nor detections.

    Attributes:
        columns: what objects were found as.
        rows: (what the objects are, [(count, share of the row in 0..1)]).
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[tuple[int, float], ...]], ...]
    kind: ClassVar[str] = "matrix"

    @classmethod
    def of(cls, confusion: Confusion) -> Matrix:
        """Return the matrix of the classes that occur."""
        counts, last = confusion.counts, len(confusion.names)
        used = [k for k in range(last) if any(counts[k]) or any(row[k] for row in counts)]
        rows = [
            (name, [counts[k][j] for j in (*used, last)])
            for k, name in ((k, (*confusion.names, "no object")[k]) for k in (*used, last))
        ]
        return cls(
            (*(confusion.names[k] for k in used), "missed"),
            tuple((name, tuple((x, round(x / max(sum(row), 1), 3)) for x in row)) for name, row in rows),
        )


@dataclass(frozen=True)
class Gallery(Figure):
    """Images with what was found in them."""

    images: tuple[ShownImage, ...]
    kind: ClassVar[str] = "gallery"
