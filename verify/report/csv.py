"""The details of an evaluation for a spreadsheet: four files of comma-separated values.

Shares are in 0..1; a cell is empty where there is nothing to find.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator, Mapping
from io import StringIO
from pathlib import Path

from effdet_torch.outputs.atomic import replacing
from effdet_torch.untrusted.text import printable
from verify.results.details import Comparison, Details

Row = Iterable[object]
FORMULA = ("=", "+", "-", "@")  # how a formula starts in a spreadsheet


def write_csv(path: Path, details: Details, comparison: Comparison | None = None) -> list[Path]:
    """Write the classes to `path`, and beside it NAME_images, NAME_confusion and NAME_curves; return the paths.

    Args:
        path: FILE.csv; files of an earlier run are replaced.
        details: of the evaluation.
        comparison: with another model: more columns in the tables of classes and images.

    Raises:
        OutputError: A file cannot be written.
    """
    paths = table_paths(path)
    for table_path, table in zip(paths, TABLES.values(), strict=True):
        stream = StringIO()
        csv.writer(stream, lineterminator="\n").writerows(map(_cells, table(details, comparison)))
        with replacing(table_path) as file:
            file.write(stream.getvalue().encode())
    return paths


def table_paths(path: Path) -> list[Path]:
    """Return the files of the tables; the table of classes is FILE.csv itself."""
    return [path.with_name(f"{path.stem}{name}{path.suffix}") for name in TABLES]


def _classes(details: Details, comparison: Comparison | None) -> Iterator[Row]:
    names = list(details.classes[0].metrics) if details.classes else []
    others = {} if comparison is None else {each.category_id: each for each in comparison.classes}
    counted = ("right", "wrong_class", "missed", "false")
    more = [f"other_{name}" for name in names] if comparison is not None else []
    yield "id", "class", "objects", "detections", *names, "best_F1", "score_of_best_F1", *counted, *more
    counts = details.confusion.by_class
    for each in details.classes:
        best = (None, None) if each.best_f1 is None else (each.best_f1.f1, each.best_f1.score)
        row = (each.category_id, each.name, each.objects, each.detections, *map(_share, each.metrics.values()), *best)
        other = others.get(each.category_id)
        metrics = [] if comparison is None else map(_share, other.metrics.values()) if other else [None] * len(names)
        yield *row, *counts[each.category_id], *metrics


def _images(details: Details, comparison: Comparison | None) -> Iterator[Row]:
    more = ("other_mistakes", "different") if comparison is not None else ()
    others = {} if comparison is None else {x.image_id: (x.other_mistakes, x.different) for x in comparison.images}
    yield "id", "file", "right", "wrong_class", "missed", "false", "mistakes", *more
    for x in details.images:
        row = (x.image_id, x.file, x.right, x.wrong_class, x.missed, x.false, x.mistakes)
        yield *row, *others.get(x.image_id, ())


def _confusion(details: Details, _: Comparison | None) -> Iterator[Row]:
    names = details.confusion.names
    yield "object", *(f"found as {name}" for name in names), "missed"
    for name, counts in zip((*names, "no object"), details.confusion.counts, strict=True):
        yield name, *counts


def _curves(details: Details, _: Comparison | None) -> Iterator[Row]:
    yield "id", "class", "iou", "recall", "precision", "score"
    for each in details.classes:
        for iou, curve in each.curves.items():
            for n, (precision, score) in enumerate(zip(curve.precision, curve.scores, strict=True)):
                yield each.category_id, each.name, iou, n / 100, precision, score


TABLES: Mapping[str, Callable[[Details, Comparison | None], Iterator[Row]]] = {
    "": _classes,
    "_images": _images,
    "_confusion": _confusion,
    "_curves": _curves,
}


def _share(value: float) -> float | None:
    return None if value < 0 else value


def _cells(row: Row) -> Iterator[object]:
    """Yield the cells of a row; a name that a spreadsheet would run as a formula gets an apostrophe in front."""
    for value in row:
        text = printable(value) if isinstance(value, str) else value
        yield f"'{text}" if isinstance(text, str) and text.startswith(FORMULA) else text
