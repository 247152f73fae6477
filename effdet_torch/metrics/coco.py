"""COCO's 12 numbers, and the curves that they are means of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from effdet_torch.metrics.columns import CocoResult, to_columns
from effdet_torch.metrics.evaluators import RECORD, Accumulated, Evaluator, get_evaluator

__all__ = ["METRICS", "BoxEvaluation", "CocoResult", "coco_metrics", "evaluate_boxes"]

METRICS = (
    *("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large"),
    *("AR1", "AR10", "AR100", "AR_small", "AR_medium", "AR_large"),
)


@dataclass(frozen=True)
class BoxEvaluation:
    """Detections, compared with annotations.

    Attributes:
        evaluator: what computed the numbers.
        category_ids: of the K categories in `curves`.
        curves: precision, recall and scores.
    """

    evaluator: Evaluator
    category_ids: tuple[int, ...]
    curves: Accumulated

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
    return BoxEvaluation(chosen, columns.category_ids, chosen(columns))


def coco_metrics(
    dataset: Mapping[str, Any], results: Iterable[CocoResult], image_ids: Sequence[int], evaluator: str = RECORD
) -> dict[str, float]:
    """Return the 12 numbers in 0..1, -1 where there is nothing to find; see `evaluate_boxes`."""
    return evaluate_boxes(dataset, results, image_ids, evaluator).metrics
