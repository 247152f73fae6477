"""The numbers of every class against pycocotools, given that class alone; curves and F1 on detections made by hand."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from effdet_torch.metrics.classes import BestF1, class_metrics
from effdet_torch.metrics.coco import METRICS, evaluate_boxes
from support.coco_samples import annotation, result
from support.random_boxes import Case, random_case

NOTHING = -1.0


def alone(case: Case, category_id: int, limits: Sequence[int] = (1, 10, 100)) -> COCOeval:
    """Evaluate one class with pycocotools."""
    dataset, results, image_ids = case
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = dataset
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(results), "bbox")
        evaluation.params.imgIds, evaluation.params.catIds = image_ids, [category_id]
        evaluation.params.maxDets = list(limits)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def best_f1(evaluation: COCOeval) -> float:
    """Return the best F1 of all scores, from the matches that pycocotools made at IoU 0.50."""
    images = [image for image in evaluation.evalImgs[: len(evaluation.params.imgIds)] if image is not None]
    objects = sum(int((image["gtIgnore"] == 0).sum()) for image in images)
    scores = np.concatenate([image["dtScores"] for image in images])
    counted = ~np.concatenate([image["dtIgnore"][0] for image in images]).astype(bool)
    right = np.concatenate([image["dtMatches"][0] for image in images]) > 0
    taken = [(scores >= score) & counted for score in sorted({*scores.tolist()})]
    return max((2 * (right & rows).sum() / (objects + rows.sum()) for rows in taken), default=0.0)


@pytest.mark.parametrize("seed", [1, 2, 3, 4])
def test_every_class_has_the_numbers_that_pycocotools_gives_it_alone(seed: int) -> None:
    case = random_case(seed)
    classes = class_metrics(evaluate_boxes(*case), {})
    assert len(classes) == len(case.dataset["categories"]) > 1
    for each in classes:
        assert list(each.metrics.values()) == pytest.approx(alone(case, each.category_id).stats.tolist(), abs=1e-12)
    assert len({each.metrics["AP"] for each in classes}) > 1  # a class in the place of another would be seen


@pytest.mark.parametrize("seed", range(22))
def test_the_best_f1_is_that_of_the_matches_that_pycocotools_makes(seed: int) -> None:
    case = random_case(seed)
    for each in class_metrics(evaluate_boxes(*case), {}):
        assert (each.best_f1 is None) == (each.objects == 0)
        if each.best_f1 is not None:
            assert each.best_f1.f1 == pytest.approx(best_f1(alone(case, each.category_id, (1, 10, 10_000))))


@pytest.mark.parametrize("seed", range(12))
def test_the_numbers_of_all_are_the_means_of_the_classes(seed: int) -> None:
    evaluation = evaluate_boxes(*random_case(seed))
    classes = class_metrics(evaluation, {})
    for name in METRICS:
        values = [each.metrics[name] for each in classes if each.metrics[name] != NOTHING]
        if name in ("AP", "AP50", "AP75", "AR1", "AR10", "AR100"):
            assert evaluation.metrics[name] == pytest.approx(np.mean(values) if values else NOTHING)
    for each in classes:
        for iou, name in (("0.50", "AP50"), ("0.75", "AP75")):
            assert (iou in each.curves) == (each.objects > 0)
            if each.curves:
                assert np.mean(each.curves[iou].precision) == pytest.approx(each.metrics[name])


def by_hand(*scores_and_boxes: tuple[float, tuple[float, ...]]) -> Any:
    """Two objects of class 1 and a crowd; class 2 has no object."""
    boxes = ((0, 0, 10, 10), (50, 50, 10, 10), (0, 80, 90, 10))
    annotations = [annotation(n, 1, 1, box) for n, box in enumerate(boxes, start=1)]
    annotations[2]["iscrowd"] = 1
    dataset = {"images": [{"id": 1}], "categories": [{"id": 1}, {"id": 2}], "annotations": annotations}
    results = [result(1, 1, box, score) for score, box in scores_and_boxes]
    return class_metrics(evaluate_boxes(dataset, [*results, result(1, 2, boxes[0], 0.5)], [1]), {1: "cat"})


def test_curves_and_the_best_f1_of_detections_made_by_hand() -> None:
    found, empty = by_hand((0.9, (0, 0, 10, 10)), (0.8, (200, 0, 10, 10)), (0.7, (50, 50, 10, 10)))
    assert (found.name, found.objects, found.detections) == ("cat", 2, 3)  # a crowd is not an object
    curve = found.curves["0.50"]
    assert curve.precision[:51] == pytest.approx([1.0] * 51)
    assert curve.precision[51:] == pytest.approx([2 / 3] * 50)
    assert (curve.scores[50], curve.scores[51]) == (0.9, 0.7)
    assert found.best_f1 is not None
    assert (found.best_f1.f1, found.best_f1.score) == (pytest.approx(0.8), 0.7)  # 2/3 at the first: 1 and 0.5
    assert (empty.name, empty.objects, empty.detections) == ("class 2", 0, 1)
    assert (empty.curves, empty.best_f1, set(empty.metrics.values())) == ({}, None, {NOTHING})


def test_where_nothing_is_right_the_best_f1_is_0_at_no_score() -> None:
    found, _ = by_hand((0.9, (300, 0, 10, 10)))
    assert (found.metrics["AP"], found.best_f1) == (0.0, BestF1(0.0, None))


def test_equal_scores_are_taken_together() -> None:
    wrong = [(0.5, (200 + 20 * n, 0, 10, 10)) for n in range(4)]
    found, _ = by_hand((0.5, (0, 0, 10, 10)), *wrong, (0.5, (50, 50, 10, 10)))
    assert found.best_f1 == BestF1(0.5, 0.5)  # 2 right of 6, 2 objects; the first right one alone would have 0.67


def test_few_of_many_objects_have_a_best_f1() -> None:
    annotations = [annotation(n, 1, 1, (20 * n, 0, 10, 10)) for n in range(150)]
    dataset = {"images": [{"id": 1}], "categories": [{"id": 1}], "annotations": annotations}
    (found,) = class_metrics(evaluate_boxes(dataset, [result(1, 1, (0, 0, 10, 10), 0.9)], [1]), {})
    assert found.best_f1 is not None
    assert (found.best_f1.f1, found.best_f1.score) == (pytest.approx(2 / 151), 0.9)
