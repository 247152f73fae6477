"""Non-maximum suppression against a plain loop over boxes; `tests/property` compares with TensorFlow itself."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from effdet_torch.geometry.nms import non_max_suppression, torchvision_nms

SOFT = {"score_threshold": 0.001, "soft_nms_sigma": 0.25}


def random_candidates(batch: int, count: int, classes: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    """Overlapping boxes (B, N, 4), scores and classes (B, N)."""
    generator = torch.Generator().manual_seed(count)
    corner = torch.rand(batch, count, 2, generator=generator) * 60
    boxes = torch.cat((corner, corner + 5 + torch.rand(batch, count, 2, generator=generator) * 40), dim=2)
    scores = torch.rand(batch, count, generator=generator)
    return boxes, scores, torch.randint(classes, (batch, count), generator=generator)


def iou(first: list[float], second: list[float], plus_one: float = 0.0) -> float:
    height = min(first[2], second[2]) - max(first[0], second[0]) + plus_one
    width = min(first[3], second[3]) - max(first[1], second[1]) + plus_one
    overlap = max(height, 0.0) * max(width, 0.0)
    areas = sum((box[2] - box[0] + plus_one) * (box[3] - box[1] + plus_one) for box in (first, second))
    return overlap / (areas - overlap)


def select_by_loop(boxes: Tensor, scores: Tensor, classes: Tensor, sigma: float, plus_one: float = 0.0) -> list[int]:
    """Greedy NMS of one image as textbooks write it: float64, one box at a time, at most 100 results."""
    left = dict(enumerate(scores.tolist()))
    corners, labels = boxes.tolist(), classes.tolist()
    selected: list[int] = []
    while left and len(selected) < 100:
        best = max(left, key=lambda index: (left[index], -index))
        if sigma and left[best] <= 0.001:
            break
        selected.append(best)
        del left[best]
        for index in [index for index in left if labels[index] == labels[best]]:
            overlap = iou(corners[best], corners[index], plus_one)
            if sigma:
                left[index] *= math.exp(-(overlap**2) / (2 * sigma))
            elif overlap > 0.5:
                del left[index]
    return selected


@pytest.mark.parametrize("sigma", [0.0, 0.25])
@pytest.mark.parametrize("count", [1, 30, 400])
def test_equals_a_plain_loop(sigma: float, count: int) -> None:
    boxes, scores, classes = random_candidates(2, count)
    options = SOFT if sigma else {}
    indices, _, num_selected = non_max_suppression(boxes, scores, classes, **options)
    found = [image[:n].tolist() for image, n in zip(indices, num_selected, strict=True)]
    assert found == [select_by_loop(*image, sigma) for image in zip(boxes, scores, classes, strict=True)]


@pytest.mark.parametrize("sigma", [0.0, 0.25])
def test_the_comparison_sees_one_pixel_and_half_a_sigma(sigma: float) -> None:
    boxes, scores, classes = random_candidates(1, 400)
    boxes /= 5  # a few pixels large
    indices, _, num_selected = non_max_suppression(boxes, scores, classes, **(SOFT if sigma else {}))
    found = indices[0, : num_selected[0]].tolist()
    assert found != select_by_loop(boxes[0], scores[0], classes[0], sigma, plus_one=1.0)
    if sigma:
        assert found != select_by_loop(boxes[0], scores[0], classes[0], 2 * sigma)


def test_decayed_score_is_the_formula() -> None:
    boxes = torch.tensor([[[0.0, 0.0, 2.0, 2.0], [0.0, 1.0, 2.0, 3.0]]])  # IoU 1/3
    _, scores, _ = non_max_suppression(boxes, torch.tensor([[0.9, 0.8]]), max_outputs=2, **SOFT)
    assert scores[0].tolist() == pytest.approx([0.9, 0.8 * math.exp(-(1 / 9) / 0.5)], abs=1e-6)


@pytest.mark.parametrize("options", [{}, SOFT], ids=["hard", "soft"])
def test_all_classes_at_once_equal_the_merge_of_single_classes(options: dict[str, float]) -> None:
    boxes, scores, classes = random_candidates(1, 600, classes=7)
    merged = []
    for label in range(7):
        members = (classes[0] == label).nonzero()[:, 0]
        indices, decayed, num = non_max_suppression(boxes[:, members], scores[:, members], **options)
        merged += [(-decayed[0, i].item(), members[indices[0, i]].item()) for i in range(int(num[0]))]
    expected = sorted(merged)[:100]
    indices, decayed, _ = non_max_suppression(boxes, scores, classes, **options)
    assert indices[0].tolist() == [index for _, index in expected]
    assert decayed[0].tolist() == [-score for score, _ in expected]
    # Control: without classes the boxes of all classes compete.
    assert non_max_suppression(boxes, scores, **options)[0][0].tolist() != indices[0].tolist()


def test_equal_scores_keep_their_order() -> None:
    boxes = torch.tensor([[[0.0, 0.0, 1.0, 1.0], [5.0, 5.0, 6.0, 6.0], [0.0, 0.0, 1.0, 1.0], [9.0, 9.0, 10.0, 10.0]]])
    scores = torch.tensor([[0.5, 0.5, 0.5, 0.5]])
    assert non_max_suppression(boxes, scores, max_outputs=4)[0].tolist() == [[0, 1, 3, 0]]
    assert non_max_suppression(boxes, scores, max_outputs=4, **SOFT)[0].tolist() == [[0, 1, 3, 2]]
    assert non_max_suppression(boxes.flip(1), scores, max_outputs=4)[0].tolist() == [[0, 1, 2, 0]]


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


def test_images_do_not_disturb_each_other() -> None:
    boxes, scores, classes = random_candidates(3, 50)
    together = non_max_suppression(boxes, scores, classes, max_outputs=20, **SOFT)
    for image in range(3):
        only = slice(image, image + 1)
        alone = non_max_suppression(boxes[only], scores[only], classes[only], max_outputs=20, **SOFT)
        assert all(torch.equal(a[only], b) for a, b in zip(together, alone, strict=True))


def test_padding_is_zero() -> None:
    boxes, scores, _ = random_candidates(2, 6)
    scores[1] = 0.0
    indices, decayed, num_selected = non_max_suppression(boxes, scores, max_outputs=9, score_threshold=0.0)
    assert num_selected[1] == 0
    assert indices.shape == decayed.shape == (2, 9)
    assert 0 < num_selected[0] <= 6
    assert not indices[0, num_selected[0] :].any()
    assert not decayed[0, num_selected[0] :].any()


def test_no_candidates() -> None:
    indices, scores, num_selected = non_max_suppression(torch.zeros(2, 0, 4), torch.zeros(2, 0))
    assert indices.shape == scores.shape == (2, 100)
    assert num_selected.tolist() == [0, 0]


def test_swapped_corners_are_put_right() -> None:
    boxes, scores, classes = random_candidates(1, 40)
    swapped = boxes[:, :, [2, 3, 0, 1]]
    expected = non_max_suppression(boxes, scores, classes)
    assert all(torch.equal(a, b) for a, b in zip(non_max_suppression(swapped, scores, classes), expected, strict=True))


@pytest.mark.parametrize("options", [{}, SOFT], ids=["hard", "soft"])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 3e38])
def test_broken_boxes_do_not_spoil_the_others(options: dict[str, float], bad: float) -> None:
    boxes, scores, _ = random_candidates(1, 40)
    indices, _, num_selected = non_max_suppression(boxes[:, 2:], scores[:, 2:], **options)
    expected = [index + 2 for index in indices[0, : num_selected[0]].tolist()]
    boxes[0, :2, 2:] = bad
    found, decayed, num_selected = non_max_suppression(boxes, scores, **options)
    assert decayed.isfinite().all()
    assert [index for index in found[0, : num_selected[0]].tolist() if index > 1] == expected


def test_empty_boxes_overlap_nothing() -> None:
    boxes = torch.tensor([[[0.0, 0.0, 4.0, 4.0], [2.0, 1.0, 2.0, 3.0], [2.0, 1.0, 2.0, 3.0]]])
    _, _, num_selected = non_max_suppression(boxes, torch.tensor([[0.9, 0.8, 0.7]]), iou_threshold=0.0)
    assert num_selected.tolist() == [3]


def test_nan_scores_are_never_selected() -> None:
    boxes, scores, _ = random_candidates(1, 4)
    scores[0, 2] = math.nan
    for options in ({}, SOFT):
        indices, selected, num_selected = non_max_suppression(boxes, scores, max_outputs=4, **options)
        assert 2 not in indices[0, : num_selected[0]].tolist()
        assert selected.isfinite().all()


def test_tiny_sigma_gives_no_nan() -> None:
    boxes, scores, _ = random_candidates(1, 60)
    _, selected, num_selected = non_max_suppression(boxes, scores, score_threshold=0.0, soft_nms_sigma=1e-5)
    assert selected.isfinite().all()
    assert 0 < num_selected[0] < 60


def test_inputs_stay_as_they_were() -> None:
    boxes, scores, classes = random_candidates(1, 30)
    copies = [tensor.clone() for tensor in (boxes, scores, classes)]
    non_max_suppression(boxes.requires_grad_(), scores.requires_grad_(), classes)
    assert all(torch.equal(a, b) for a, b in zip((boxes, scores, classes), copies, strict=True))


def test_wrong_options() -> None:
    boxes, scores, _ = random_candidates(1, 3)
    with pytest.raises(ValueError, match="score_threshold is -1"):
        non_max_suppression(boxes, scores, score_threshold=-1.0, soft_nms_sigma=0.25)
    with pytest.raises(ValueError, match=r"iou_threshold is 1\.5"):
        non_max_suppression(boxes, scores, iou_threshold=1.5)


@pytest.mark.filterwarnings("ignore:.torch.jit:FutureWarning", "ignore:.torch.jit:DeprecationWarning")
@pytest.mark.parametrize("options", [{}, SOFT], ids=["hard", "soft"])
def test_torchscript_gives_the_same(options: dict[str, float]) -> None:
    scripted = torch.jit.script(non_max_suppression)
    for count in (0, 3, 200):
        boxes, scores, classes = random_candidates(2, count)
        for labels in (classes, None):
            expected = non_max_suppression(boxes, scores, labels, **options)
            found = scripted(boxes, scores, labels, **options)
            assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_export_gives_the_same() -> None:
    class Suppress(torch.nn.Module):
        def forward(self, boxes: Tensor, scores: Tensor, classes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            return non_max_suppression(boxes, scores, classes, max_outputs=10, **SOFT)

    exported = torch.export.export(Suppress(), random_candidates(2, 200)).module()
    inputs = random_candidates(2, 200)
    inputs[1].square_()
    assert all(torch.equal(a, b) for a, b in zip(exported(*inputs), Suppress()(*inputs), strict=True))


def test_torchvision_selects_the_same() -> None:
    pytest.importorskip("torchvision")
    boxes, scores, classes = random_candidates(2, 300)
    scores[1] *= 1e-3
    expected = non_max_suppression(boxes, scores, classes, max_outputs=40)
    assert all(torch.equal(a, b) for a, b in zip(torchvision_nms(boxes, scores, classes, 40), expected, strict=True))
