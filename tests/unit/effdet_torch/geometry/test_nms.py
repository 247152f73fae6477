"""Batches, broken input and exports; `tests/property` compares the selection with TensorFlow itself."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from effdet_torch.geometry.nms import non_max_suppression

SOFT = {"score_threshold": 0.001, "soft_nms_sigma": 0.25}
HARD_AND_SOFT = pytest.mark.parametrize("options", [{}, SOFT], ids=["hard", "soft"])
Selection = tuple[Tensor, Tensor, Tensor]


def random_candidates(batch: int, count: int, classes: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    """Overlapping boxes (B, N, 4), scores and classes (B, N)."""
    generator = torch.Generator().manual_seed(count)
    corner = torch.rand(batch, count, 2, generator=generator) * 60
    boxes = torch.cat((corner, corner + 5 + torch.rand(batch, count, 2, generator=generator) * 40), dim=2)
    scores = torch.rand(batch, count, generator=generator)
    return boxes, scores, torch.randint(classes, (batch, count), generator=generator)


def assert_equal(found: Selection, expected: Selection) -> None:
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("count", [17, 1000, 20_000])
def test_identical_boxes_keep_their_order_wherever_they_are(count: int) -> None:
    boxes, scores, _ = random_candidates(1, count)
    scores *= torch.arange(count) % (count // 17) == 0  # 17 or 18 pairs, so that all copies are selected
    twice = torch.cat((boxes, boxes), dim=1), torch.cat((scores, scores), dim=1)
    indices, _, num_selected = non_max_suppression(*twice, score_threshold=0.0, soft_nms_sigma=0.25)
    rank = {index: rank for rank, index in enumerate(indices[0, : num_selected[0]].tolist())}
    copies = [index for index in rank if index >= count]
    assert copies
    assert all(rank[index] > rank[index - count] for index in copies)


@HARD_AND_SOFT
def test_images_do_not_disturb_each_other_and_inputs_stay(options: dict[str, float]) -> None:
    candidates = random_candidates(3, 50)
    copies = [tensor.clone() for tensor in candidates]
    for tensor in candidates[:2]:
        tensor.requires_grad_()
    together = non_max_suppression(*candidates, max_outputs=20, **options)
    for image in range(3):
        only = slice(image, image + 1)
        alone = non_max_suppression(*(tensor[only] for tensor in candidates), max_outputs=20, **options)
        assert_equal((together[0][only], together[1][only], together[2][only]), alone)
    assert all(torch.equal(a, b) for a, b in zip(candidates, copies, strict=True))


def test_padding_is_zero() -> None:
    boxes, scores, _ = random_candidates(2, 6)
    scores[1] = 0.0
    indices, decayed, num_selected = non_max_suppression(boxes, scores, max_outputs=9, score_threshold=0.0)
    assert indices.shape == decayed.shape == (2, 9)
    assert 0 < num_selected[0] <= 6
    assert num_selected[1] == 0
    assert not indices[0, num_selected[0] :].any()
    assert not decayed[0, num_selected[0] :].any()
    indices, decayed, num_selected = non_max_suppression(torch.zeros(2, 0, 4), torch.zeros(2, 0))
    assert indices.shape == decayed.shape == (2, 100)
    assert num_selected.tolist() == [0, 0]


@HARD_AND_SOFT
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 3e38])
def test_broken_boxes_and_scores_do_not_spoil_the_others(options: dict[str, float], bad: float) -> None:
    boxes, scores, _ = random_candidates(1, 40)
    scores[0, 5] = math.nan
    indices, _, num_selected = non_max_suppression(boxes[:, 2:], scores[:, 2:], **options)
    expected = [index + 2 for index in indices[0, : num_selected[0]].tolist()]
    boxes[0, :2, 2:] = bad
    found, decayed, num_selected = non_max_suppression(boxes, scores, **options)
    assert decayed.isfinite().all()
    assert [index for index in found[0, : num_selected[0]].tolist() if index > 1] == expected
    assert 5 not in expected


def test_a_tiny_sigma_gives_no_nan() -> None:
    boxes, scores, _ = random_candidates(1, 60)
    _, selected, num_selected = non_max_suppression(boxes, scores, score_threshold=0.0, soft_nms_sigma=1e-5)
    assert selected.isfinite().all()
    assert 0 < num_selected[0] < 60


@pytest.mark.parametrize("options", [{"score_threshold": -1.0, "soft_nms_sigma": 0.25}, {"iou_threshold": 1.5}])
def test_wrong_options(options: dict[str, float]) -> None:
    name, value = next(iter(options.items()))
    with pytest.raises(ValueError, match=f"{name} is {value}"):
        non_max_suppression(*random_candidates(1, 3), **options)


@HARD_AND_SOFT
@pytest.mark.filterwarnings("ignore:.torch.jit:FutureWarning", "ignore:.torch.jit:DeprecationWarning")
def test_torchscript_and_export_give_the_same(options: dict[str, float]) -> None:
    class Suppress(torch.nn.Module):
        def forward(self, boxes: Tensor, scores: Tensor, classes: Tensor) -> Selection:
            return non_max_suppression(boxes, scores, classes, max_outputs=10, **options)

    scripted = torch.jit.script(non_max_suppression)
    for count in (0, 3, 200):
        boxes, scores, classes = random_candidates(2, count)
        for labels in (classes, None):
            expected = non_max_suppression(boxes, scores, labels, **options)
            assert_equal(scripted(boxes, scores, labels, **options), expected)
    exported = torch.export.export(Suppress(), random_candidates(2, 200)).module()
    inputs = random_candidates(2, 200)
    inputs[1].square_()
    assert_equal(exported(*inputs), Suppress()(*inputs))
