"""Detections against expected detections, one to one per image and class."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from effdet_torch.metrics.coco_metrics import CocoResult, coco_metrics
from verify.detection_results import (
    MATCHED_BOX_ERROR_PX,
    MATCHED_MIN_SCORE,
    MATCHED_SCORE_ERROR,
    DetectionParity,
)

MIN_IOU = 0.5
Array = NDArray[np.float64]
Counts = tuple[int, int, int]  # expected, surplus, matched


def compare_detections(
    found: Iterable[CocoResult],
    expected: Iterable[CocoResult],
    image_ids: Sequence[int],
    source: str,
    dataset: Mapping[str, Any] | None = None,
) -> DetectionParity:
    """Pair found with expected detections and say how far apart the pairs are.

    The closest pairs are formed first. What counts has a score of at least 0.05 on one side; its partner may have less.

    Args:
        found: in COCO's results format.
        expected: in COCO's results format.
        image_ids: the images to compare.
        source: name of where the expected ones came from.
        dataset: content of an annotation file, for the difference of the APs.
    """
    groups, wanted = (_grouped(found), _grouped(expected)), set(image_ids)
    expected_count = surplus = matched = 0
    box_error = score_error = 0.0
    first: int | None = None
    for image_id, category_id in sorted(key for key in groups[0].keys() | groups[1].keys() if key[0] in wanted):
        sides = [_arrays(group.get((image_id, category_id), [])) for group in groups]
        counts, errors = _compare_group(*sides)
        expected_count, surplus, matched = expected_count + counts[0], surplus + counts[1], matched + counts[2]
        box_error, score_error = max(box_error, errors[0]), max(score_error, errors[1])
        if first is None and counts[2] < counts[0] + counts[1]:
            first = image_id
    difference = None
    if dataset is not None:
        aps = [coco_metrics(dataset, _flat(group), image_ids)["AP"] for group in groups]
        difference = aps[0] - aps[1]
    return DetectionParity(source, expected_count, surplus, matched, box_error, score_error, difference, first)


def _compare_group(found: tuple[Array, Array], expected: tuple[Array, Array]) -> tuple[Counts, tuple[float, float]]:
    """Compare the detections of one image and class.

    Args:
        found: boxes_xyxy (N, 4) and scores (N,).
        expected: boxes_xyxy (M, 4) and scores (M,).

    Returns:
        How many count: expected, surplus, matched; and the largest box and score errors of the pairs.
    """
    box_errors = np.abs(found[0][:, None] - expected[0][None]).max(axis=2, initial=0.0)
    score_errors = np.abs(found[1][:, None] - expected[1][None])
    pairs = _pair(box_errors, score_errors, _iou(found[0], expected[0]))
    counted = found[1] >= MATCHED_MIN_SCORE, expected[1] >= MATCHED_MIN_SCORE
    counting = [(i, j) for i, j in pairs if counted[0][i] or counted[1][j]]
    errors = [(float(box_errors[pair]), float(score_errors[pair])) for pair in counting]
    matched = sum(box <= MATCHED_BOX_ERROR_PX and score <= MATCHED_SCORE_ERROR for box, score in errors)
    alone = [int(counted[side].sum()) - sum(bool(counted[side][pair[side]]) for pair in pairs) for side in (0, 1)]
    counts = len(counting) + alone[1], alone[0], matched
    return counts, (max((e[0] for e in errors), default=0.0), max((e[1] for e in errors), default=0.0))


def _pair(box_errors: Array, score_errors: Array, iou: Array) -> list[tuple[int, int]]:
    """Pair rows with columns one to one, closest first; within the tolerances, or else with half their area in common.

    Soft NMS leaves several boxes on one object, so overlap alone would pair the wrong ones.
    """
    cost = np.maximum(box_errors / MATCHED_BOX_ERROR_PX, score_errors / MATCHED_SCORE_ERROR)
    possible = (cost <= 1) | (iou >= MIN_IOU)
    pairs: list[tuple[int, int]] = []
    free = np.ones(cost.shape[0], bool), np.ones(cost.shape[1], bool)
    rows, columns = np.nonzero(possible)
    for k in np.argsort(cost[rows, columns], kind="stable"):
        i, j = int(rows[k]), int(columns[k])
        if free[0][i] and free[1][j]:
            free[0][i] = free[1][j] = False
            pairs.append((i, j))
    return pairs


def _iou(first: Array, second: Array) -> Array:
    """Return intersection over union of boxes_xyxy (N, 4) and (M, 4) as (N, M); 0 where both are empty."""
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    common = np.clip(high - low, 0, None).prod(axis=2)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(axis=1) for boxes in (first, second)]
    union = areas[0][:, None] + areas[1][None] - common
    iou: Array = np.divide(common, union, out=np.zeros_like(common), where=union > 0)
    return iou


def _grouped(results: Iterable[CocoResult]) -> dict[tuple[int, int], list[CocoResult]]:
    groups: dict[tuple[int, int], list[CocoResult]] = defaultdict(list)
    for result in results:
        groups[result["image_id"], result["category_id"]].append(result)
    return groups


def _flat(groups: Mapping[tuple[int, int], list[CocoResult]]) -> list[CocoResult]:
    return [result for group in groups.values() for result in group]


def _arrays(results: Sequence[CocoResult]) -> tuple[Array, Array]:
    boxes = np.array([result["bbox"] for result in results], np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return boxes, np.array([result["score"] for result in results], np.float64)
