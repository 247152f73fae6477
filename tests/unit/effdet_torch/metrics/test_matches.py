"""Objects and detections one to one: against hotcoco's confusion matrix, and by hand where its rule is another."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from effdet_torch.metrics.columns import Columns, to_columns
from effdet_torch.metrics.matches import LEFT_OUT, MIN_IOU, NONE, Matches, match_boxes
from support.coco_samples import annotation, result
from support.random_boxes import random_case

Box = Sequence[float]


def columns_of(seed: int) -> Columns:
    """Return random boxes without crowds, with distinct scores: equal ones may be taken in any order."""
    dataset, results, image_ids = random_case(seed)
    rng = np.random.default_rng(seed)
    scores = rng.permutation(np.linspace(0.001, 0.999, len(results))).tolist()
    annotations = [x | {"iscrowd": 0} for x in dataset["annotations"]]
    found = [x | {"score": score} for x, score in zip(results, scores, strict=True)]
    for detection in found[::3]:  # the classes of the random cases are mostly right
        detection["category_id"] = dataset["categories"][int(rng.integers(len(dataset["categories"])))]["id"]
    return to_columns(dataset | {"annotations": annotations}, found, image_ids)


def oracle(columns: Columns, min_score: float) -> NDArray[np.int64]:
    hotcoco = pytest.importorskip("hotcoco", reason="hotcoco (extra `fast-eval`) is not installed")
    truth, found = columns.truth, columns.found
    with contextlib.redirect_stdout(io.StringIO()):
        annotations = hotcoco.COCO.from_arrays(
            images=[{"id": n} for n in range(1, columns.image_count + 1)],
            categories=[{"id": number, "name": str(number)} for number in columns.category_ids],
            image_ids=truth.images,
            category_ids=truth.categories,
            boxes=truth.boxes_xywh,
            area=truth.areas,
            iscrowd=truth.crowds,
        )
        rows = np.column_stack((found.images, found.boxes_xywh, found.scores, found.categories))
        evaluation = hotcoco.COCOeval(annotations, annotations.load_res(rows), "bbox")
        matrix = evaluation.confusion_matrix(iou_thr=MIN_IOU, max_det=10_000, min_score=min_score)["matrix"]
    return np.asarray(matrix, np.int64)


@pytest.mark.parametrize("min_score", [0.0, 0.3, 0.9])
@pytest.mark.parametrize("seed", range(12))
def test_the_confusion_matrix_is_that_of_hotcoco(seed: int, min_score: float) -> None:
    columns = columns_of(seed)
    assert (match_boxes(columns, min_score).confusion == oracle(columns, min_score)).all()


def test_another_score_or_overlap_would_be_seen() -> None:
    cases = [(columns, oracle(columns, 0.3)) for columns in map(columns_of, range(12))]
    assert any((match_boxes(columns, 0.4).confusion != expected).any() for columns, expected in cases)
    assert any((match_boxes(columns, 0.3, 0.7).confusion != expected).any() for columns, expected in cases)
    assert sum(np.diagonal(expected)[:-1].sum() for _, expected in cases) > 50
    assert sum(expected[:-1, :-1].sum() - np.trace(expected[:-1, :-1]) for _, expected in cases) > 10


@pytest.mark.parametrize("seed", range(24))
def test_all_counts_tell_the_same(seed: int) -> None:
    matches = match_boxes(to_columns(*random_case(seed)), 0.2)  # with crowds and equal scores
    truth, confusion = matches.columns.truth, matches.confusion
    objects = [((truth.categories == number) & ~truth.crowds).sum() for number in matches.columns.category_ids]
    assert confusion[:-1].sum(axis=1).tolist() == objects
    k = np.arange(len(confusion) - 1)
    right, missed, false = confusion[k, k].sum(), confusion[:-1, -1].sum(), confusion[-1].sum()
    assert matches.by_image.sum(axis=0).tolist() == [right, confusion[:-1, :-1].sum() - right, missed, false]
    matched = matches.truth_of_found[matches.truth_of_found >= 0]
    assert len(set(matched.tolist())) == len(matched)
    assert (matches.truth.boxes.images[matched] == matches.found.boxes.images[matches.truth_of_found >= 0]).all()
    counted = matches.found.outcomes[matches.columns.found.scores < 0.2]
    assert set(counted.tolist()) <= {"below score"}


def match(
    truth: Sequence[tuple[int, Sequence[float], int]], found: Sequence[tuple[int, Sequence[float], float]]
) -> Matches:
    """Match (class, box, is crowd) with (class, box, score) in one image."""
    annotations = [
        annotation(n, 1, category, box) | {"iscrowd": crowd} for n, (category, box, crowd) in enumerate(truth)
    ]
    dataset = {"images": [{"id": 1}], "categories": [{"id": 1}, {"id": 2}], "annotations": annotations}
    return match_boxes(to_columns(dataset, [result(1, *detection) for detection in found], [1]))


BOX, HALF, FAR = (0, 0, 10, 10), (0, 0, 10, 4.9), (90, 90, 10, 10)


def test_the_best_score_takes_the_object_and_the_classes_decide_afterwards() -> None:
    matches = match([(1, BOX, 0)], [(1, BOX, 0.8), (2, BOX, 0.9)])
    assert matches.truth_of_found.tolist() == [NONE, 0]
    assert (matches.truth.outcomes.tolist(), matches.truth.categories.tolist()) == (["wrong class"], [2])
    assert matches.found.outcomes.tolist() == ["false", "wrong class"]
    assert matches.confusion.tolist() == [[0, 1, 0], [0, 0, 0], [1, 0, 0]]


def test_too_little_overlap_is_a_miss_and_a_false_detection() -> None:
    matches = match([(1, BOX, 0)], [(1, HALF, 0.9)])
    assert (matches.truth.outcomes.tolist(), matches.found.outcomes.tolist()) == (["missed"], ["false"])


def test_a_detection_on_a_crowd_of_its_class_does_not_count() -> None:
    crowd, inside = (0, 0, 50, 50), (20, 20, 9, 9)
    detections = [(1, BOX, 0.9), (1, inside, 0.8), (2, inside, 0.75), (1, FAR, 0.7)]
    matches = match([(1, crowd, 1), (1, BOX, 0)], detections)
    assert matches.truth_of_found.tolist() == [1, LEFT_OUT, NONE, NONE]  # the object before the crowd
    assert matches.truth.outcomes.tolist() == ["not counted", "right"]
    assert matches.found.outcomes.tolist() == ["right", "not counted", "false", "false"]
    assert matches.by_image.tolist() == [[1, 0, 0, 2]]


def test_within_classes_each_finds_its_own() -> None:
    truth, found = [(1, BOX, 0), (2, BOX, 0)], [(2, BOX, 0.9), (1, BOX, 0.8), (1, BOX, 0.7)]
    columns = match(truth, found).columns
    assert match_boxes(columns, by_class=True).truth_of_found.tolist() == [1, 0, NONE]
    assert match(truth, found[1:]).found.outcomes.tolist() == ["right", "wrong class"]
    assert match_boxes(match(truth, found[1:]).columns, by_class=True).found.outcomes.tolist() == ["right", "false"]


def test_boxes_without_end_match_nothing() -> None:
    endless = (0, 0, float("inf"), 10)
    with np.errstate(invalid="ignore"):
        matches = match([(1, endless, 0)], [(1, endless, 0.9), (1, BOX, 0.8)])
    assert matches.by_image.tolist() == [[0, 0, 1, 2]]


def test_detections_below_the_score_are_neither_right_nor_wrong() -> None:
    matches = match([(1, BOX, 0)], [(1, BOX, 0.29), (2, FAR, 0.1)])
    assert matches.found.outcomes.tolist() == ["below score", "below score"]
    assert matches.by_image.tolist() == [[0, 0, 1, 0]]
    assert match([], []).confusion.tolist() == [[0, 0, 0]] * 3
