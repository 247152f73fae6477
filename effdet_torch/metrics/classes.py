"""The numbers and the precision-recall curves of every class."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from effdet_torch.metrics.coco import PARTS, BoxEvaluation
from effdet_torch.metrics.columns import Floats

CURVE_IOUS: Mapping[str, int] = {"0.50": 0, "0.75": 5}  # IoU of a curve -> its index among COCO's thresholds


@dataclass(frozen=True)
class Curve:
    """Precision over recall 0, 0.01, ... 1, all objects, at most 100 detections an image.

    Attributes:
        precision: (101,), in 0..1: the highest at this recall or beyond; 0 where the recall is not reached.
        scores: (101,), the score down to which detections must be taken; 0 where the recall is not reached.
    """

    precision: tuple[float, ...]
    scores: tuple[float, ...]


@dataclass(frozen=True)
class BestF1:
    """Where precision and recall are best together, at IoU 0.50.

    Attributes:
        f1: harmonic mean of precision and recall, 0..1.
        score: least score of the detections that reach it.
    """

    f1: float
    score: float


@dataclass(frozen=True)
class ClassMetrics:
    """One class.

    Attributes:
        category_id: of the model.
        name: of the class.
        objects: annotated ones, without crowds.
        detections: of any score.
        metrics: COCO's 12 numbers of this class alone, in 0..1; -1 where there is nothing to find.
        curves: {"0.50": at this IoU, "0.75": ...}; empty without objects.
        best_f1: at IoU 0.50; None if no detection is right.
    """

    category_id: int
    name: str
    objects: int
    detections: int
    metrics: Mapping[str, float]
    curves: Mapping[str, Curve]
    best_f1: BestF1 | None


def class_metrics(evaluation: BoxEvaluation, names: Mapping[int, str]) -> list[ClassMetrics]:
    """Return the numbers of every class by ascending id; COCO's 12 numbers are the means of these.

    Args:
        evaluation: of all classes.
        names: {category id: name}; a class without one is called by its number.
    """
    return [
        _of_class(evaluation, k, names.get(number) or f"class {number}")
        for k, number in enumerate(evaluation.category_ids)
    ]


def _of_class(evaluation: BoxEvaluation, k: int, name: str) -> ClassMetrics:
    number, curves = evaluation.category_ids[k], _curves(evaluation, k)
    truth, found = evaluation.columns.truth, evaluation.columns.found
    return ClassMetrics(
        category_id=number,
        name=name,
        objects=int((truth.categories[~truth.crowds] == number).sum()),
        detections=int((found.categories == number).sum()),
        metrics={name: part.mean(evaluation.curves, k) for name, part in PARTS.items()},
        curves=curves,
        best_f1=_best_f1(curves["0.50"]) if curves else None,
    )


def _curves(evaluation: BoxEvaluation, k: int) -> dict[str, Curve]:
    precision, scores = (array[:, :, k, 0, -1] for array in (evaluation.curves.precision, evaluation.curves.scores))
    if (precision < 0).any():  # -1: nothing to find
        return {}
    return {iou: Curve(tuple(precision[t].tolist()), tuple(scores[t].tolist())) for iou, t in CURVE_IOUS.items()}


def _best_f1(curve: Curve) -> BestF1 | None:
    precision: Floats = np.array(curve.precision)
    recall = np.linspace(0, 1, len(precision))
    f1 = 2 * precision * recall / np.maximum(precision + recall, np.finfo(float).tiny)
    best = int(f1.argmax())
    return BestF1(float(f1[best]), curve.scores[best]) if f1[best] else None
