"""The numbers and the precision-recall curves of every class."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from effdet_torch.metrics.coco import PARTS, BoxEvaluation
from effdet_torch.metrics.columns import Floats
from effdet_torch.metrics.matches import NOT_COUNTED, RIGHT, Judged, match_boxes

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
        score: of the last detection to take, with all of equal score; None if no detection is right.
    """

    f1: float
    score: float | None


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
        best_f1: at IoU 0.50; None without objects.
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
    found = match_boxes(evaluation.columns, -np.inf, by_class=True).found
    return [
        _of_class(evaluation, k, names.get(number) or f"class {number}", found)
        for k, number in enumerate(evaluation.category_ids)
    ]


def _of_class(evaluation: BoxEvaluation, k: int, name: str, found: Judged) -> ClassMetrics:
    number, truth = evaluation.category_ids[k], evaluation.columns.truth
    objects, rows = int((truth.categories[~truth.crowds] == number).sum()), found.boxes.categories == number
    return ClassMetrics(
        category_id=number,
        name=name,
        objects=objects,
        detections=int(rows.sum()),
        metrics={name: part.mean(evaluation.curves, k) for name, part in PARTS.items()},
        curves=_curves(evaluation, k),
        best_f1=_best_f1(found.outcomes[rows], found.boxes.scores[rows], objects) if objects else None,
    )


def _curves(evaluation: BoxEvaluation, k: int) -> dict[str, Curve]:
    precision, scores = (array[:, :, k, 0, -1] for array in (evaluation.curves.precision, evaluation.curves.scores))
    if (precision < 0).any():  # -1: nothing to find
        return {}
    return {iou: Curve(tuple(precision[t].tolist()), tuple(scores[t].tolist())) for iou, t in CURVE_IOUS.items()}


def _best_f1(outcomes: NDArray[np.str_], scores: Floats, objects: int) -> BestF1:
    """Return the best of all least scores that there are.

    Args:
        outcomes: (D,), of the detections of a class.
        scores: (D,).
        objects: of that class.
    """
    counted = outcomes != NOT_COUNTED
    order = np.argsort(-scores[counted], kind="stable")
    right, scores = (outcomes[counted] == RIGHT)[order], scores[counted][order]
    f1 = 2 * right.cumsum() / (objects + np.arange(1, len(right) + 1))
    last = np.append(scores[1:] != scores[:-1], True)[: len(scores)]  # equal scores are taken together
    if not right.any():
        return BestF1(0.0, None)
    best = int(np.where(last, f1, 0.0).argmax())
    return BestF1(float(f1[best]), float(scores[best]))
