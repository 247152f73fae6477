"""Detections against expected detections, one to one per image and class."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from effdet_torch.engines.file_engine import FileEngine
from effdet_torch.metrics.coco import CocoResult, coco_metrics
from effdet_torch.metrics.evaluators import RECORD
from verify.results.detections import (
    HALF_ERRORS,
    MATCHED_ERRORS,
    MATCHED_MIN_SCORE,
    DetectionParity,
)

MIN_IOU = 0.5
Array = NDArray[np.float64]
Side = tuple[Array, Array]  # boxes_xyxy (N, 4), scores (N,)
Limits = tuple[float, float]


def compare_detections(
    found: Iterable[CocoResult],
    expected: Iterable[CocoResult],
    image_ids: Sequence[int],
    source: str,
    dataset: Mapping[str, Any] | None = None,
    evaluator: str = RECORD,
    limits: Limits = MATCHED_ERRORS,
) -> DetectionParity:
    """Pair found with expected detections and measure how far apart the pairs are.

    The closest pairs are formed first. What counts has a score of at least 0.05 on one side; its partner may have less.

    Args:
        found: in COCO's results format.
        expected: in COCO's results format.
        image_ids: the images to compare.
        source: name of where the expected ones came from.
        dataset: content of an annotation file, for the difference of the APs.
        evaluator: what computes these.
        limits: of the errors of a pair that matches: of a coordinate, in pixels, and of a score.
    """
    groups, wanted = (grouped(found), grouped(expected)), set(image_ids)
    counts, errors, first = [0, 0, 0], [0.0, 0.0], None
    for image_id, category_id in sorted(key for key in groups[0].keys() | groups[1].keys() if key[0] in wanted):
        sides = (side_of(group.get((image_id, category_id), [])) for group in groups)
        group_counts, group_errors = _compare_group(limits, *sides)
        counts = [sum(pair) for pair in zip(counts, group_counts, strict=True)]
        errors = [max(pair) for pair in zip(errors, group_errors, strict=True)]
        if first is None and group_counts[2] < group_counts[0] + group_counts[1]:
            first = image_id
    difference = None
    if dataset is not None:
        results = ([result for members in group.values() for result in members] for group in groups)
        aps = [coco_metrics(dataset, side, image_ids, evaluator)["AP"] for side in results]
        difference = aps[0] - aps[1]
    expected_count, surplus, matched = counts
    return DetectionParity(source, expected_count, surplus, matched, errors[0], errors[1], difference, first)


def matching_limits(engine: object) -> Limits:
    """Return the errors of pairs that match, for detections of an engine."""
    is_half = isinstance(engine, FileEngine) and engine.interface.precision == "float16"
    return HALF_ERRORS if is_half else MATCHED_ERRORS


def _compare_group(limits: Limits, found: Side, expected: Side) -> tuple[tuple[int, int, int], tuple[float, float]]:
    """Compare the detections of one image and class.

    Returns:
        How many count: expected, surplus, matched; and the largest box and score errors of the pairs.
    """
    box_errors = np.abs(found[0][:, None] - expected[0][None]).max(axis=2, initial=0.0)
    score_errors = np.abs(found[1][:, None] - expected[1][None])
    # Soft NMS leaves several boxes on one object, so overlap alone would pair the wrong ones.
    cost = np.maximum(box_errors / limits[0], score_errors / limits[1])
    iou = overlaps(found[0], expected[0])
    pairs = pair_up(cost, (cost <= 1) | (iou >= MIN_IOU))
    counted = found[1] >= MATCHED_MIN_SCORE, expected[1] >= MATCHED_MIN_SCORE
    counting = [pair for pair in pairs if counted[0][pair[0]] or counted[1][pair[1]]]
    alone = [int(counted[side].sum()) - sum(bool(counted[side][pair[side]]) for pair in pairs) for side in (0, 1)]
    matched = sum(bool(cost[pair] <= 1) for pair in counting)
    largest = (max((float(error[pair]) for pair in counting), default=0.0) for error in (box_errors, score_errors))
    return (len(counting) + alone[1], alone[0], matched), (next(largest), next(largest))


def overlaps(first_xyxy: Array, second_xyxy: Array) -> Array:
    """Return intersection over union of N and M boxes, (N, M)."""
    first, second = first_xyxy[:, None], second_xyxy[None]
    sides = np.minimum(first[..., 2:], second[..., 2:]) - np.maximum(first[..., :2], second[..., :2])
    common = np.maximum(sides, 0).prod(axis=2)
    areas = [(boxes[..., 2:] - boxes[..., :2]).prod(axis=2) for boxes in (first, second)]
    iou: Array = common / np.maximum(areas[0] + areas[1] - common, np.finfo(np.float64).tiny)
    return iou


def pair_up(cost: Array, possible: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Pair rows with columns one to one, where possible, cheapest first."""
    pairs: list[tuple[int, int]] = []
    free = np.ones(cost.shape[0], bool), np.ones(cost.shape[1], bool)
    rows, columns = np.nonzero(possible)
    for k in np.argsort(cost[rows, columns], kind="stable"):
        i, j = int(rows[k]), int(columns[k])
        if free[0][i] and free[1][j]:
            free[0][i] = free[1][j] = False
            pairs.append((i, j))
    return pairs


def grouped(results: Iterable[CocoResult]) -> dict[tuple[int, int], list[CocoResult]]:
    """Return {(image id, category id): detections}."""
    groups: dict[tuple[int, int], list[CocoResult]] = defaultdict(list)
    for result in results:
        groups[result["image_id"], result["category_id"]].append(result)
    return groups


def side_of(results: Sequence[CocoResult]) -> Side:
    """Return boxes and scores of detections."""
    boxes = np.array([result["bbox"] for result in results], np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return boxes, np.array([result["score"] for result in results], np.float64)
