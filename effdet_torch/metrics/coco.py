"""COCO's 12 numbers, and the curves that they are means of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from effdet_torch.metrics.columns import CocoResult, Columns, to_columns
from effdet_torch.metrics.evaluators import RECORD, Accumulated, Evaluator, get_evaluator

__all__ = ["METRICS", "BoxEvaluation", "CocoResult", "coco_metrics", "evaluate_boxes"]


class Part(NamedTuple):
    """The part of the curves that a number is the mean of.

    Attributes:
        array: which of them.
        ious: thresholds of IoU, of 0.50, 0.55, ... 0.95.
        area: index of the range of areas: all, small, medium, large.
        limit: index of the largest number of detections: 1, 10, 100.
    """

    array: Literal["precision", "recall"]
    ious: slice = slice(None)
    area: int = 0
    limit: int = 2

    def mean(self, curves: Accumulated, category: int) -> float:
        """Return the mean of one category, by its index; -1 where there is nothing to find."""
        values = getattr(curves, self.array)[self.ious, ..., category, self.area, self.limit]
        return float(values[values > -1].mean()) if (values > -1).any() else -1.0


# Source: pycocotools, `COCOeval.summarize`.
PARTS: Mapping[str, Part] = {
    "AP": Part("precision"),
    "AP50": Part("precision", slice(0, 1)),
    "AP75": Part("precision", slice(5, 6)),
    "AP_small": Part("precision", area=1),
    "AP_medium": Part("precision", area=2),
    "AP_large": Part("precision", area=3),
    "AR1": Part("recall", limit=0),
    "AR10": Part("recall", limit=1),
    "AR100": Part("recall"),
    "AR_small": Part("recall", area=1),
    "AR_medium": Part("recall", area=2),
    "AR_large": Part("recall", area=3),
}
METRICS = tuple(PARTS)


@dataclass(frozen=True)
class BoxEvaluation:
    """Detections, compared with annotations.

    Attributes:
        evaluator: what computed the numbers.
        columns: what was compared.
        curves: precision, recall and scores.
    """

    evaluator: Evaluator
    columns: Columns
    curves: Accumulated

    @property
    def category_ids(self) -> tuple[int, ...]:
        """The ids of the K categories in `curves`, ascending."""
        return self.columns.category_ids

    @property
    def metrics(self) -> dict[str, float]:
        """The 12 numbers in 0..1; -1 where the images hold no object of that kind."""
        return dict(zip(METRICS, map(float, self.curves.summary), strict=True))


def evaluate_boxes(
    dataset: Mapping[str, Any], results: Iterable[CocoResult], image_ids: Sequence[int], evaluator: str = RECORD
) -> BoxEvaluation:
    """Compare detections with annotations.

    Args:
        dataset: content of an annotation file; every annotation has "image_id", "category_id", "bbox", "area" and
            "iscrowd".
        results: detections; those in other images are left out.
        image_ids: the images to evaluate. One without detections counts: its objects were not found.
        evaluator: name of the library that computes, see `effdet_torch.metrics.evaluators.get_evaluator`.

    Raises:
        ConfigError: The evaluator does not exist or is not installed.
        EvaluationError: A box or a score holds NaN.
    """
    chosen, columns = get_evaluator(evaluator), to_columns(dataset, results, image_ids)
    return BoxEvaluation(chosen, columns, chosen(columns))


def coco_metrics(
    dataset: Mapping[str, Any], results: Iterable[CocoResult], image_ids: Sequence[int], evaluator: str = RECORD
) -> dict[str, float]:
    """Return the 12 numbers in 0..1, -1 where there is nothing to find; see `evaluate_boxes`."""
    return evaluate_boxes(dataset, results, image_ids, evaluator).metrics
