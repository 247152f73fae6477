"""Who computes the numbers: pycocotools, the number of record, or hotcoco, which gives the same bits much faster."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import metadata
from typing import Any, NamedTuple

import numpy as np

from effdet_torch.errors import ConfigError, install_command
from effdet_torch.metrics.columns import Boxes, Columns, Floats

RECORD = "pycocotools"
AUTO = "auto"
# The versions of hotcoco that the tests compare with pycocotools, bit for bit; "auto" takes no other.
COMPARED = "1.3."


class Accumulated(NamedTuple):
    """What COCO's evaluation computes.

    Axes: T thresholds of IoU 0.50..0.95, R points of recall 0..1, K categories by ascending id, A ranges of object area
    (all, small, medium, large), M largest numbers of detections (1, 10, 100). -1 where there is nothing to find.

    Attributes:
        precision: (T, R, K, A, M).
        recall: (T, K, A, M).
        scores: (T, R, K, A, M), the score at which that recall is reached.
        summary: (12,), the means that `effdet_torch.metrics.coco.METRICS` names.
    """

    precision: Floats
    recall: Floats
    scores: Floats
    summary: Floats


@dataclass(frozen=True)
class Evaluator:
    """A library that evaluates, in the version that is installed."""

    name: str
    version: str

    def __call__(self, columns: Columns) -> Accumulated:
        """Match detections with annotations and accumulate."""
        return EVALUATORS[self.name](columns)

    def __str__(self) -> str:
        return f"{self.name} {self.version}"


def get_evaluator(name: str = AUTO) -> Evaluator:
    """Return an evaluator by its name; "auto": hotcoco where it is installed in a version that is compared.

    Raises:
        ConfigError: There is none of that name, or it is not installed.
    """
    if name == AUTO:
        version = _hotcoco_version()
        name = "hotcoco" if version is not None and version.startswith(COMPARED) else RECORD
    if name not in EVALUATORS:
        raise ConfigError(f"unknown evaluator {name!r}; expected {AUTO} or one of {', '.join(EVALUATORS)}")
    version = _hotcoco_version() if name == "hotcoco" else metadata.version(name)
    if version is None:
        raise ConfigError(f"the evaluator hotcoco is not installed: {install_command('fast-eval')}, or use pycocotools")
    return Evaluator(name, version)


def _hotcoco_version() -> str | None:
    try:
        import hotcoco  # noqa: F401
    except ImportError:
        return None
    return metadata.version("hotcoco")


def _pycocotools(columns: Columns) -> Accumulated:
    """Source: pycocotools `COCOeval`, bounding boxes; official code, `coco_metric.EvaluationMetric`."""
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints what it does
        return _accumulated(COCOeval(_indexed(columns, columns.truth), _indexed(columns, columns.found), "bbox"))


def _hotcoco(columns: Columns) -> Accumulated:
    """Source: hotcoco's documentation, "COCO.from_arrays", "load_res"."""
    from hotcoco import COCO, COCOeval

    truth, found = columns.truth, columns.found
    annotations = COCO.from_arrays(
        images=_images(columns),
        categories=_categories(columns),
        image_ids=truth.images,
        category_ids=truth.categories,
        boxes=truth.boxes_xywh,
        area=truth.areas,
        iscrowd=truth.crowds,
    )
    # Its order of columns: image, box, score, category.
    detections = np.column_stack((found.images, found.boxes_xywh, found.scores, found.categories))
    with contextlib.redirect_stdout(io.StringIO()):  # it prints as pycocotools does
        return _accumulated(COCOeval(annotations, annotations.load_res(detections), "bbox"))


EVALUATORS: Mapping[str, Callable[[Columns], Accumulated]] = {RECORD: _pycocotools, "hotcoco": _hotcoco}


def _accumulated(evaluation: Any) -> Accumulated:
    """Run an evaluation; both libraries have the same interface."""
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    arrays = (evaluation.eval[name] for name in ("precision", "recall", "scores"))
    return Accumulated(*(np.asarray(array, np.float64) for array in (*arrays, evaluation.stats)))


def _images(columns: Columns) -> list[dict[str, Any]]:
    return [{"id": number} for number in range(1, columns.image_count + 1)]


def _categories(columns: Columns) -> list[dict[str, Any]]:
    return [{"id": category_id, "name": str(category_id)} for category_id in columns.category_ids]


def _indexed(columns: Columns, boxes: Boxes) -> Any:
    """Return one side as pycocotools' own `loadRes` would; that function fails when there are no detections."""
    from pycocotools.coco import COCO

    values = (boxes.images, boxes.categories, boxes.boxes_xywh, boxes.areas, boxes.scores, boxes.crowds)
    rows = enumerate(zip(*(column.tolist() for column in values), strict=True), start=1)
    names = ("image_id", "category_id", "bbox", "area", "score", "iscrowd")
    coco = COCO()
    coco.dataset = {
        "images": _images(columns),
        "categories": _categories(columns),
        "annotations": [{"id": number, **dict(zip(names, row, strict=True))} for number, row in rows],
    }
    coco.createIndex()
    return coco
