"""report.html: a run as one page that works offline, made from templates/."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

from effdet_torch.train.run.results import COLUMNS, COPIES, EpochResult, Results
from effdet_torch.untrusted.pages import page_templates

if TYPE_CHECKING:
    from jinja2 import Template

# Columns of the table of epochs; results.csv has all.
SCORES = [f"{name}_{copy}" for copy in COPIES for name in ("AP", "AP50")]  # shown in percent, as by effdet-verify
SHOWN = ("epoch", "loss", "lr", *SCORES, "seconds")
PICTURES = {
    "curves.png": "Curves",
    "samples_train.png": "Training images, as the network sees them",
    "samples_val.png": "Validation images: annotated, and found",
}


def to_html(title: str, results: Results, settings: Mapping[str, Any], pictures: Mapping[str, bytes]) -> str:
    """Return a run as a page.

    Args:
        title: of the run.
        results: its epochs and notes.
        settings: plain values; mappings become sections of their own.
        pictures: {name in `PICTURES`: a PNG}.
    """
    shown = {PICTURES[name]: pictures[name] for name in PICTURES if name in pictures}
    sections = {name: value for name, value in settings.items() if isinstance(value, Mapping)}
    named = {name: value for name, value in settings.items() if name not in sections}
    return _template().render(
        title=title,
        headline=headline(results),
        notes=results.notes,
        pictures=shown,
        columns=SHOWN,
        epochs=[[_cell(name, COLUMNS[name](row)) for name in SHOWN] for row in reversed(results.epochs)],
        classes=list(class_rows(results)),
        copies=[f"{when}, {copy}" for when in ("best", "last") for copy in COPIES],
        settings={"settings": named, **sections} if named else sections,
    )


def headline(results: Results) -> str:
    """Return how good the best epoch is, in one sentence."""
    best = results.best
    if best is None:
        return f"epochs done: {len(results.epochs)}; not validated yet"
    found = [f"{100 * ap:.1f} ({copy})" for copy in COPIES if (ap := best.metric(copy, "AP")) is not None]
    return f"epochs done: {len(results.epochs)}; the best is {best.epoch}: AP {', '.join(found) or 'n/a'}"


def class_rows(results: Results) -> Iterator[tuple[str, ...]]:
    """Yield (class name, AP in the best epoch of each copy, in the last one of each copy)."""
    rows: list[EpochResult | None] = [results.best, results.last_validated]
    tables = [{} if row is None else row.per_class.get(copy, {}) for row in rows for copy in COPIES]
    for name in dict.fromkeys(name for table in tables for name in table):
        values = (table.get(name, -1) for table in tables)
        yield name, *("" if value < 0 else f"{100 * value:.1f}" for value in values)


def _cell(name: str, value: float | None) -> str:
    if value is None:
        return ""
    return f"{100 * value:.1f}" if name in SCORES else f"{value:.4g}"


@cache
def _template() -> Template:
    return page_templates("effdet_torch.train.run").get_template("run.html.j2")
