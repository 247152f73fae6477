"""Losses, learning rate and AP over the epochs, as a picture."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from io import BytesIO
from typing import TYPE_CHECKING, Any

from effdet_torch.train.run.results import COPIES, EpochResult, Results

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SIZE = (12.0, 3.6)  # inches
DOTS_PER_INCH = 120
LOSSES = {"total": "total", "classes": "class", "boxes": "box", "iou": "IoU", "l2": "L2"}  # key -> name for people
Value = Callable[[EpochResult], float | None]


def curves_png(results: Results) -> bytes:
    """Return a PNG of three plots; a loss that is 0 throughout, and a copy that was never validated, are left out."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # late: a second
    from matplotlib.figure import Figure

    figure = Figure(figsize=SIZE, dpi=DOTS_PER_INCH, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    losses, rate, scores = figure.subplots(1, 3)
    _plot(losses, results, {name: partial(_loss, key) for key, name in LOSSES.items()}, "loss")
    losses.set_yscale("log")
    _plot(rate, results, {"learning rate": lambda result: result.lr}, "learning rate")
    aps = {f"AP, {copy}": partial(_percent, copy) for copy in COPIES}
    _plot(scores, results, aps, "AP on the validation images, in percent")
    scores.set_ylim(bottom=0)
    stream = BytesIO()
    figure.savefig(stream, format="png")
    return stream.getvalue()


def _loss(key: str, result: EpochResult) -> float | None:
    return result.losses.get(key) or None  # 0 has no logarithm


def _percent(copy: str, result: EpochResult) -> float | None:
    ap = result.metric(copy, "AP")
    return None if ap is None else 100 * ap


def _plot(axes: Axes, results: Results, lines: Mapping[str, Value], title: str) -> None:
    """Draw lines over the epochs; an epoch without a value is skipped."""
    from matplotlib.ticker import MaxNLocator

    for name, value in lines.items():
        points: list[tuple[int, Any]] = [(row.epoch, value(row)) for row in results.epochs if value(row) is not None]
        if points:
            axes.plot(*zip(*points, strict=True), label=name, marker="." if len(points) < 50 else "")
    axes.set_title(title, fontsize="medium")
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    if axes.lines:
        axes.legend(fontsize="small")
