"""Pictures of a verification as SVG that takes its colours from the page it is put into."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from verify.report.summary import Run, part_spans, runs
from verify.results import LayerResult, Verification

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

# Colours by purpose; the page's CSS variable --plot-PURPOSE overrides them, so that dark pages can have dark plots.
COLOURS: Mapping[str, str] = {
    "paper": "#fefefd",
    "ink": "#24292e",
    "grid": "#d0d5da",
    "shade": "#8899ab",
    "float32": "#b45f06",
    "float64": "#1f5fa8",
    "failure": "#c21d2b",
}
STYLE: Mapping[str, Any] = {
    "font.size": 9,
    "svg.fonttype": "none",
    "svg.hashsalt": "effdet-verify",
    "path.simplify": False,
    "axes.edgecolor": COLOURS["grid"],
    "axes.labelcolor": COLOURS["ink"],
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.color": COLOURS["ink"],
    "xtick.color": COLOURS["ink"],
    "ytick.color": COLOURS["ink"],
}
TITLES: Mapping[str, str] = {
    "cumulative": "Cumulative: both networks on the same input",
    "isolated": "Isolated: every PyTorch layer on TensorFlow's own input",
}
BEYOND = "beyond its tolerance"
MIN_LABEL_SHARE = 0.04  # a narrower stretch of the network has no room for its name


def error_growth_svg(verification: Verification) -> str:
    """Draw error over execution order, one panel per mode; "" if nothing was compared.

    Zero is drawn at the bottom of the logarithmic axis, what is not finite at its top.
    """
    from matplotlib import style
    from matplotlib.figure import Figure

    found = runs(verification)
    modes = [mode for mode in TITLES if any(run.mode == mode for run in found)]
    if not modes:
        return ""
    stream = io.StringIO()
    with style.context(["default", dict(STYLE)]):
        figure = Figure(figsize=(10.5, 0.6 + 2.7 * len(modes)), layout="constrained")
        panels = figure.subplots(len(modes), sharex=True, squeeze=False)[:, 0]
        for panel, mode in zip(panels, modes, strict=True):
            _draw_panel(panel, [run for run in found if run.mode == mode])
        panels[-1].xaxis.get_major_locator().set_params(integer=True)
        panels[-1].set_xlabel("layers in execution order")
        figure.supylabel("max |difference| / rms", fontsize=9)
        _draw_legend(figure, list(panels))
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None})
    return _inline(stream.getvalue(), _description(found))


def _draw_legend(figure: Figure, panels: Sequence[Axes]) -> None:
    """Name the lines of all panels once; those of the first panel where they differ, failures at the end."""
    handles: dict[str, Any] = {}
    for axes in reversed(panels):
        lines, names = axes.get_legend_handles_labels()
        handles |= dict(zip(names, lines, strict=True))
    names = sorted(handles, key=BEYOND.__eq__)
    lines = [handles[name] for name in names]
    figure.legend(lines, names, loc="outside upper right", ncols=len(names), frameon=False)


def _draw_panel(axes: Axes, found: list[Run]) -> None:
    layers = [layer for run in found for layer in run.layers]
    low, high = _limits(layers)
    axes.set_yscale("log")
    axes.set_ylim(low, high)
    axes.set_xlim(-0.5, max(layer.order for layer in layers) + 0.5)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0e}")
    axes.yaxis.minorticks_off()
    axes.grid(axis="y", color=COLOURS["grid"], linewidth=0.5)
    axes.set_axisbelow(True)
    _shade_parts(axes, layers)
    for run in found:
        _draw_run(axes, run, low, high)
    _mark_first_failure(axes, layers)
    axes.set_title(TITLES[found[0].mode], loc="left", fontsize=10, fontweight="bold", pad=18)


def _draw_run(axes: Axes, run: Run, low: float, high: float) -> None:
    colour = COLOURS[run.dtype]
    orders = np.array([layer.order for layer in run.layers])
    errors = _drawable(run.layers, low, high)
    marks = {"marker": ".", "markersize": 3.0, "linestyle": "none"} if run.mode == "isolated" else {"linewidth": 1.1}
    axes.plot(orders, errors, color=colour, label=run.dtype, **marks)
    tolerances = [layer.tolerance for layer in run.layers]
    axes.plot(orders, tolerances, color=colour, linewidth=1, linestyle="--", label=f"tolerance, {run.dtype}")
    failed = np.array([not layer.passed for layer in run.layers])
    if failed.any():
        axes.plot(orders[failed], errors[failed], "x", color=COLOURS["failure"], markersize=4, label=BEYOND)


def _shade_parts(axes: Axes, layers: Iterable[LayerResult]) -> None:
    spans = part_spans(layers)
    width = spans[-1][2] + 1
    for index, (name, first, last) in enumerate(spans):
        if index % 2:
            axes.axvspan(first - 0.5, last + 0.5, color=COLOURS["shade"], alpha=0.12, linewidth=0)
        if (last - first + 1) / width >= MIN_LABEL_SHARE:
            axes.annotate(
                name, ((first + last) / 2, 1), (0, 4), ("data", "axes fraction"), "offset points", ha="center"
            )


def _mark_first_failure(axes: Axes, layers: Iterable[LayerResult]) -> None:
    orders = [layer.order for layer in layers if not layer.passed]
    if not orders:
        return
    first = min(orders)
    axes.axvline(first, color=COLOURS["failure"], linewidth=0.8)
    right = first > sum(axes.get_xlim()) / 2
    axes.annotate(
        f"first failure: layer {first}",
        (first, 0.03),
        (-4 if right else 4, 0),
        ("data", "axes fraction"),
        "offset points",
        color=COLOURS["failure"],
        bbox={"facecolor": COLOURS["paper"], "edgecolor": "none", "pad": 1.5},
        ha="right" if right else "left",
    )


def _limits(layers: Iterable[LayerResult]) -> tuple[float, float]:
    """Return limits around all errors and tolerances that a logarithmic axis can show."""
    values = np.array([value for layer in layers for value in (layer.measures.max_over_rms, layer.tolerance)])
    shown = values[np.isfinite(values) & (values > 0)]
    if not shown.size:
        return 1e-17, 1.0
    return float(shown.min()) / 5, float(shown.max()) * 5


def _drawable(layers: Iterable[LayerResult], low: float, high: float) -> NDArray[np.float64]:
    errors = np.array([layer.measures.max_over_rms for layer in layers], np.float64)
    return np.clip(np.nan_to_num(errors, nan=high, posinf=high), low, high)


def _description(found: Iterable[Run]) -> str:
    parts = (f"{run.name}: {run.failed} of {len(run.layers)} layers beyond tolerance" for run in found)
    return f"Error of every layer along the network, logarithmic. {'; '.join(parts)}."


def _inline(svg: str, description: str) -> str:
    """Make an SVG file part of a page: no XML header, no style for the whole page, variable colours, a description."""
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<style.*?</style>|<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    for purpose, colour in COLOURS.items():
        body = body.replace(f": {colour}", f": var(--plot-{purpose}, {colour})")
    return body.replace("<svg", f'<svg class="plot" role="img" aria-label="{description}"', 1)
