from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from support.coco_samples import annotation, result
from verify.detections.matching import compare_detections
from verify.results.detections import DetectionParity

Results = list[dict[str, Any]]
IMAGES = [1, 2, 3]
ONE = [result(1, 1, (10, 20, 100, 50), 0.5)]


def detections(seed: int = 0, count: int = 40) -> Results:
    rng = np.random.default_rng(seed)
    return [
        result(
            int(rng.integers(1, 4)),
            int(rng.integers(1, 3)),
            map(float, [*rng.uniform(0, 300, 2), *rng.uniform(20, 200, 2)]),
            float(rng.uniform(0.06, 1)),
        )
        for _ in range(count)
    ]


def compare(found: Results, expected: Results) -> DetectionParity:
    return compare_detections(found, expected, IMAGES, "expected.json")


def changed(results: Results, index: int, **values: Any) -> Results:
    return [x | values if i == index else x for i, x in enumerate(results)]


def test_equal_detections_match_in_any_order_and_other_images_are_left_out() -> None:
    expected = detections()
    parity = compare([*expected[::-1], result(99, 1, (0, 0, 10, 10), 0.9)], expected)
    assert parity == DetectionParity("expected.json", 40, 0, 40, 0.0, 0.0)
    assert parity.matched_share == 1
    assert parity.passed


def test_within_the_tolerances_errors_are_reported() -> None:
    expected = detections()
    x, y, width, height = expected[0]["bbox"]
    found = changed(expected, 0, bbox=[x + 0.25, y, width, height], score=expected[0]["score"] + 5e-4)
    parity = compare(found, expected)
    assert parity.matched == 40
    assert (parity.max_box_error_px, parity.max_score_error) == (pytest.approx(0.25), pytest.approx(5e-4))


@pytest.mark.parametrize(
    "values",
    [
        {"bbox": [10.6, 20, 100, 50]},
        {"bbox": [10, 20, 100.6, 50]},
        {"score": 0.502},
        {"category_id": 2},
        {"image_id": 2},
    ],
)
def test_beyond_a_tolerance_nothing_matches(values: dict[str, Any]) -> None:
    parity = compare(changed(ONE, 0, **values), ONE)
    assert (parity.matched, parity.passed, parity.first_difference) == (0, False, 1)


@pytest.mark.parametrize(("found", "expected", "counts"), [(ONE * 2, ONE, (1, 1, 1)), (ONE, ONE * 2, (2, 0, 1))])
def test_every_detection_serves_once(found: Results, expected: Results, counts: tuple[int, int, int]) -> None:
    parity = compare(found, expected)
    assert (parity.expected, parity.surplus, parity.matched, parity.matched_share) == (*counts, 0.5)


def test_the_closest_of_overlapping_boxes_are_paired() -> None:
    expected = [result(1, 1, (10 + shift, 20, 100, 50), 0.9 - shift / 100) for shift in range(5)]
    parity = compare(expected[::-1], expected)
    assert (parity.matched, parity.max_box_error_px) == (5, 0.0)


def test_low_scores_do_not_count_but_can_be_partners() -> None:
    at_threshold, below = changed(ONE, 0, score=0.05), changed(ONE, 0, score=0.0495)
    for found, expected in ((below, at_threshold), (at_threshold, below)):
        parity = compare(found, expected)
        assert (parity.expected, parity.surplus, parity.matched) == (1, 0, 1)
    assert compare(below, []) == DetectionParity("expected.json", 0, 0, 0, 0.0, 0.0)
    assert compare([], below).matched_share == 1


def test_the_first_image_that_differs_is_named() -> None:
    expected = [result(image, 1, (10, 20, 100, 50), 0.5) for image in IMAGES]
    assert compare(expected[:1], expected).first_difference == 2
    assert compare(expected, expected[:2]).first_difference == 3
    assert compare([], expected).max_box_error_px == 0


def test_the_difference_of_the_aps() -> None:
    dataset = {
        "images": [{"id": image} for image in IMAGES],
        "categories": [{"id": 1}],
        "annotations": [annotation(image, image, 1, (10, 20, 100, 50)) for image in IMAGES],
    }
    expected = [result(image, 1, (10, 20, 100, 50), 0.9) for image in IMAGES]
    found = [*expected[:2], result(3, 1, (200, 20, 100, 50), 0.9)]
    equal = compare_detections(expected, expected, IMAGES, "x", dataset)
    worse = compare_detections(found, expected, IMAGES, "x", dataset)
    assert equal.ap_difference == 0
    assert worse.ap_difference is not None
    assert worse.ap_difference < -0.3
    assert not worse.passed


def test_one_of_two_hundred_may_differ_and_not_two() -> None:
    expected = [result(1, 1, (10 + 30 * n, 20, 25, 50), 0.5) for n in range(200)]
    assert compare(changed(expected, 0, score=0.6), expected).passed
    assert not compare(changed(changed(expected, 0, score=0.6), 1, score=0.6), expected).passed
