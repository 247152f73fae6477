"""Non-maximum suppression against the TensorFlow op itself."""

from __future__ import annotations

import contextlib
import importlib
import math
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from effdet_torch.geometry import numpy_nms
from effdet_torch.geometry.nms import non_max_suppression

with contextlib.suppress(ImportError):
    importlib.import_module("triton")  # loaded after TensorFlow, its copy of LLVM aborts the process
tf = pytest.importorskip("tensorflow")

# Decayed scores are products, rounded in another order, of exponentials that are rounded differently.
SCORE_ERROR = 1e-6

# The same examples in every run: a soft score may come within that error of another, and their order is then open.
repeatable = settings(max_examples=60, deadline=None, derandomize=True, database=None)


class Case(NamedTuple):
    boxes: np.ndarray
    scores: np.ndarray
    classes: np.ndarray
    options: dict[str, Any]


@st.composite
def cases(draw: st.DrawFn, soft: bool, ties: bool) -> Case:
    """Boxes on a grid of 1/4 pixel (flipped, empty and identical ones included), scores distinct or with ties."""
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    count = draw(st.integers(1, 80))
    extent = draw(st.sampled_from([4, 40, 400]))
    boxes = random.integers(-extent, extent, (count, 4)) / 4
    if draw(st.booleans()):
        boxes[:, 2:] = boxes[:, :2] + random.integers(0, extent, (count, 2)) / 4
    scores = random.integers(0, 8, count) / 8 if ties else random.random(count)
    options = {
        "max_outputs": draw(st.integers(0, 100)),
        "iou_threshold": draw(st.sampled_from([0.0, 0.3, 0.5, 1.0])),
        "score_threshold": draw(st.sampled_from([0.0, 0.001, 0.25] if soft else [-math.inf, 0.0, 0.25])),
        "soft_nms_sigma": draw(st.sampled_from([0.05, 0.25, 0.5])) if soft else 0.0,
    }
    classes = random.integers(0, draw(st.integers(1, 6)), count)
    return Case(boxes.astype(np.float32), scores.astype(np.float32), classes, options)


def by_tensorflow(case: Case) -> tuple[list[int], np.ndarray]:
    """Indices and scores that the op selects."""
    options = dict(case.options)
    indices, scores, _ = tf.raw_ops.NonMaxSuppressionV5(
        boxes=case.boxes,
        scores=case.scores,
        max_output_size=options.pop("max_outputs"),
        pad_to_max_output_size=False,
        **options,
    )
    return indices.numpy().tolist(), scores.numpy()


def by_tensorflow_per_class(case: Case) -> tuple[list[int], np.ndarray]:
    """One op per class, merged by `top_k` as in the official code."""
    indices, scores = [], []
    for label in np.unique(case.classes):
        members = np.flatnonzero(case.classes == label)
        selected, decayed = by_tensorflow(case._replace(boxes=case.boxes[members], scores=case.scores[members]))
        indices += members[selected].tolist()
        scores += decayed.tolist()
    best = tf.math.top_k(np.float32(scores), k=min(case.options["max_outputs"], len(scores)))
    return [indices[i] for i in best.indices.numpy()], best.values.numpy()


def by_us(case: Case, per_class: bool = False) -> tuple[list[int], np.ndarray]:
    """The selection of both of ours, which is the same."""
    found, other = by_torch(case, per_class), by_numpy(case, per_class)
    assert found[0] == other[0]
    np.testing.assert_allclose(found[1], other[1], atol=SCORE_ERROR if case.options["soft_nms_sigma"] else 0, rtol=0)
    return other


def by_numpy(case: Case, per_class: bool) -> tuple[list[int], np.ndarray]:
    indices, scores = numpy_nms.non_max_suppression(
        case.boxes, case.scores, case.classes if per_class else None, **case.options
    )
    return indices.tolist(), scores


def by_torch(case: Case, per_class: bool) -> tuple[list[int], np.ndarray]:
    classes = torch.from_numpy(case.classes)[None] if per_class else None
    indices, scores, num_selected = non_max_suppression(
        torch.from_numpy(case.boxes)[None], torch.from_numpy(case.scores)[None], classes, **case.options
    )
    return indices[0, : num_selected[0]].tolist(), scores[0, : num_selected[0]].numpy()


def in_class_order(case: Case) -> Case:
    order = np.argsort(case.classes, kind="stable")
    return case._replace(boxes=case.boxes[order], scores=case.scores[order], classes=case.classes[order])


def assert_same(case: Case) -> None:
    """Compare all boxes as of one class, and every class alone."""
    ordered = in_class_order(case)
    for found, expected in (
        (by_us(case), by_tensorflow(case)),
        (by_us(ordered, per_class=True), by_tensorflow_per_class(ordered)),
    ):
        assert found[0] == expected[0]
        error = SCORE_ERROR if case.options["soft_nms_sigma"] else 0
        np.testing.assert_allclose(found[1], expected[1], atol=error, rtol=0)


@repeatable
@given(st.booleans().flatmap(lambda ties: cases(soft=False, ties=ties)))
def test_hard_is_identical(case: Case) -> None:
    assert_same(case)


@repeatable
@given(cases(soft=True, ties=False))
def test_soft_selects_the_same(case: Case) -> None:
    assert_same(case)


@repeatable
@given(cases(soft=True, ties=False), st.integers(2, 40))
def test_soft_keeps_the_order_of_identical_boxes(case: Case, copies: int) -> None:
    boxes, scores, classes = (np.concatenate([part] * copies) for part in case[:3])
    repeated = Case(boxes, scores, classes, case.options)
    assert by_us(repeated)[0] == by_tensorflow(repeated)[0]


def crowded(seed: int = 0) -> Case:
    """5000 candidates around 60 objects of 10 classes, as the official evaluation has them."""
    random = np.random.default_rng(seed)
    objects = random.random((60, 4)) * [480, 480, 200, 200]
    owner = random.integers(0, 60, 5000)
    boxes = objects[owner] * (1 + 0.1 * random.standard_normal((5000, 4)))
    boxes[:, 2:] += boxes[:, :2]
    options = {"max_outputs": 100, "iou_threshold": 0.5, "score_threshold": 0.001, "soft_nms_sigma": 0.25}
    return in_class_order(Case(np.float32(boxes), np.float32(random.random(5000) ** 4), owner % 10, options))


@pytest.mark.parametrize("sigma", [0.0, 0.25])
@pytest.mark.parametrize("seed", range(3))
def test_crowded_images(sigma: float, seed: int) -> None:
    case = crowded(seed)
    case.options["soft_nms_sigma"] = sigma
    assert len(by_us(case)[0]) == len(by_us(case, per_class=True)[0]) == 100
    assert_same(case)


def test_iou_threshold_has_no_effect_on_soft() -> None:
    case = crowded()
    results = [by_tensorflow(case._replace(options={**case.options, "iou_threshold": t})) for t in (0.1, 0.5, 1.0)]
    assert results[0][0] == results[1][0] == results[2][0] == by_us(case)[0]


@pytest.mark.parametrize(
    "options",
    [{"soft_nms_sigma": 0.5}, {"soft_nms_sigma": 0.0}, {"score_threshold": 0.9}, {"max_outputs": 99}],
    ids=lambda options: next(iter(options)),
)
def test_the_comparison_sees_other_options(options: dict[str, Any]) -> None:
    case = crowded()
    assert by_us(case._replace(options={**case.options, **options}))[0] != by_tensorflow(case)[0]


def test_the_comparison_sees_other_boxes_and_classes() -> None:
    case = crowded()
    expected = by_tensorflow_per_class(case)[0]
    assert by_us(case, per_class=True)[0] == expected
    assert by_us(case, per_class=False)[0] != expected
    one_pixel_more = case._replace(boxes=case.boxes + np.float32([0, 0, 1, 1]))
    assert by_us(one_pixel_more, per_class=True)[0] != expected


def test_the_comparison_sees_the_order_of_ties() -> None:
    case = crowded()._replace(scores=np.full(5000, 0.5, np.float32))
    case.options["soft_nms_sigma"] = 0.0
    backwards = case._replace(boxes=case.boxes[::-1].copy())
    expected = by_tensorflow(case)[0]
    assert by_us(case)[0] == expected
    assert [4999 - index for index in by_us(backwards)[0]] != expected
