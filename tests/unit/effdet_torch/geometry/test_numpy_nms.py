"""NMS in NumPy against torchvision and our torch version; `tests/property` compares it with TensorFlow itself."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torchvision.ops import batched_nms

from effdet_torch.geometry import nms
from effdet_torch.geometry.numpy_nms import non_max_suppression

SOFT = {"score_threshold": 0.001, "soft_nms_sigma": 0.25}
HARD_AND_SOFT = pytest.mark.parametrize("options", [{}, SOFT], ids=["hard", "soft"])


def random_candidates(count: int, classes: int = 5) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Overlapping boxes (N, 4), scores (N,) and ascending classes (N,)."""
    random = np.random.default_rng(count)
    corner = random.random((count, 2)) * 60
    boxes = np.concatenate((corner, corner + 5 + random.random((count, 2)) * 40), axis=1)
    return np.float32(boxes), np.float32(random.random(count)), np.sort(random.integers(0, classes, count))


@HARD_AND_SOFT
@pytest.mark.parametrize("count", [0, 1, 17, 1000])
def test_selects_what_torch_selects(count: int, options: dict[str, Any]) -> None:
    boxes, scores, classes = random_candidates(count)
    copies = boxes.copy(), scores.copy()
    for labels in (classes, None):
        indices, decayed = non_max_suppression(boxes, scores, labels, **options)
        tensors = (None if array is None else torch.from_numpy(array)[None] for array in (boxes, scores, labels))
        expected, expected_scores, num_selected = (tensor[0] for tensor in nms.non_max_suppression(*tensors, **options))
        assert indices.tolist() == expected[:num_selected].tolist()
        np.testing.assert_allclose(decayed, expected_scores[:num_selected].numpy(), atol=1e-6, rtol=0)
    assert all(np.array_equal(array, copy) for array, copy in zip((boxes, scores), copies, strict=True))


@pytest.mark.parametrize("count", [300, 3000])  # torchvision shifts the boxes of a class, or suppresses class by class
@pytest.mark.parametrize("iou_threshold", [0.3, 0.5])
def test_hard_is_torchvisions(count: int, iou_threshold: float) -> None:
    boxes, scores, classes = random_candidates(count)
    tensors = (torch.from_numpy(array) for array in (boxes, scores, classes))
    expected = batched_nms(*tensors, iou_threshold)[:60].tolist()
    assert non_max_suppression(boxes, scores, classes, 60, iou_threshold)[0].tolist() == expected
    # Negative controls: another threshold, and all boxes of one class.
    assert non_max_suppression(boxes, scores, classes, 60, iou_threshold + 0.1)[0].tolist() != expected
    assert non_max_suppression(boxes, scores, None, 60, iou_threshold)[0].tolist() != expected


@pytest.mark.parametrize("count", [17, 1000, 20_000])
def test_identical_boxes_keep_their_order_wherever_they_are(count: int) -> None:
    boxes, scores, _ = random_candidates(count)
    scores *= np.arange(count) % (count // 17) == 0  # 17 or 18 pairs, so that all copies are selected
    twice = np.concatenate((boxes, boxes)), np.concatenate((scores, scores))
    indices, _ = non_max_suppression(*twice, score_threshold=0.0, soft_nms_sigma=0.25)
    rank = {index: rank for rank, index in enumerate(indices.tolist())}
    copies = [index for index in rank if index >= count]
    assert copies
    assert all(rank[index] > rank[index - count] for index in copies)


def test_among_equal_scores_the_lower_class_wins_then_the_lower_index() -> None:
    boxes, classes = random_candidates(4)[0] * [1, 1, 0, 0], np.array([7, 2, 7, 2])  # empty boxes overlap nothing
    assert non_max_suppression(np.float32(boxes), np.ones(4, np.float32), classes)[0].tolist() == [1, 3, 0, 2]
    assert non_max_suppression(np.float32(boxes), np.ones(4, np.float32))[0].tolist() == [0, 1, 2, 3]


@HARD_AND_SOFT
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 3e38])
def test_broken_boxes_and_scores_do_not_spoil_the_others(options: dict[str, float], bad: float) -> None:
    boxes, scores, _ = random_candidates(40)
    scores[5] = math.nan
    expected = [index + 2 for index in non_max_suppression(boxes[2:], scores[2:], **options)[0].tolist()]
    boxes[:2, 2:] = bad
    found, decayed = non_max_suppression(boxes, scores, **options)
    assert np.isfinite(decayed).all()
    assert [index for index in found.tolist() if index > 1] == expected
    assert 5 not in expected


def test_a_tiny_sigma_ends_a_box_for_good() -> None:
    boxes, scores, _ = random_candidates(60)
    _, selected = non_max_suppression(boxes, scores, score_threshold=0.0, soft_nms_sigma=1e-5)
    assert np.isfinite(selected).all()
    assert 0 < len(selected) < 60


@pytest.mark.parametrize("options", [{"score_threshold": -1.0, "soft_nms_sigma": 0.25}, {"iou_threshold": 1.5}])
def test_wrong_options(options: dict[str, float]) -> None:
    name, value = next(iter(options.items()))
    with pytest.raises(ValueError, match=f"{name} is {value}"):
        non_max_suppression(*random_candidates(3), **options)
