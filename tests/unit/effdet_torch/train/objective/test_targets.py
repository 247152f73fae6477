"""Targets as batches, and what the assigner refuses."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from effdet_torch.config import get_config
from effdet_torch.errors import UsageError
from effdet_torch.geometry.boxes import decode_boxes_xyxy
from effdet_torch.train.objective import TargetAssigner, Targets, matching, merge
from support.training import dense_match

CONFIG = get_config("d0", image_size=128)
BOXES = torch.tensor([[10.0, 20.0, 70.0, 60.0], [30.0, 30.0, 62.0, 62.0]])
LABELS = torch.tensor([3, 90])
NONE = torch.zeros((0, 4)), torch.zeros(0)


@pytest.fixture(scope="module")
def assigner() -> TargetAssigner:
    return TargetAssigner(CONFIG)


def equal(first: Targets, second: Targets) -> bool:
    return all(map(torch.equal, first, second))


def test_a_batch_is_its_images_one_after_the_other(assigner: TargetAssigner) -> None:
    both = assigner([BOXES, NONE[0], BOXES[:1]], [LABELS, NONE[1], LABELS[:1]])
    parts = [assigner([BOXES], [LABELS]), assigner([NONE[0]], [NONE[1]]), assigner([BOXES[:1]], [LABELS[:1]])]
    assert equal(both, merge(parts))
    assert equal(both, merge([merge(parts[:2]), parts[2]]))
    assert not equal(both, merge(parts[::-1]))  # control
    assert both.positives.tolist() == [len(part.anchor) for part in parts]
    assert both.positives[1] == 0
    assert both.image.tolist() == [0] * len(parts[0].anchor) + [2] * len(parts[2].anchor)


def test_deltas_decode_to_the_boxes(assigner: TargetAssigner) -> None:
    targets = assigner([BOXES], [LABELS])
    decoded = decode_boxes_xyxy(targets.boxes, assigner._anchors[targets.anchor])
    expected = torch.where(targets.classes[:, None] == 2, BOXES[0], BOXES[1])
    torch.testing.assert_close(decoded, expected, rtol=0, atol=1e-4)
    assert set(targets.classes.tolist()) == {2, 89}


def test_dense_targets_list_all_anchors(assigner: TargetAssigner) -> None:
    targets = assigner([NONE[0], BOXES], [NONE[1], LABELS])
    classes, boxes = targets.dense(len(assigner._anchors))
    assert (classes[0] == -1).all()
    assert (boxes[0] == 0).all()
    assert torch.equal((classes[1] >= 0).nonzero()[:, 0], targets.anchor)
    assert torch.equal(boxes[1][targets.anchor], targets.boxes)


def test_another_image_size_has_other_anchors() -> None:
    other = TargetAssigner(CONFIG, image_size=(256, 128))([BOXES], [LABELS])
    assert equal(other, TargetAssigner(get_config("d0", image_size=(256, 128)))([BOXES], [LABELS]))
    assert not equal(other, TargetAssigner(CONFIG)([BOXES], [LABELS]))


def test_a_search_that_is_too_narrow_is_noticed(assigner: TargetAssigner, monkeypatch: pytest.MonkeyPatch) -> None:
    """Control of the comparison with all anchors, in tests/property."""
    boxes = BOXES.numpy()[:, [1, 0, 3, 2]]
    expected = dense_match(boxes, assigner._grid.anchors)
    assert all(map(np.array_equal, assigner._grid.match(boxes), expected))
    monkeypatch.setattr(matching, "STRIDE_SLACK", -0.7)
    assert not np.array_equal(assigner._grid.match(boxes)[0], expected[0])


@pytest.mark.parametrize(
    ("boxes", "labels", "words"),
    [
        ([BOXES], [], "boxes of 1 images, labels of 0"),
        ([], [], "expected the same, 1 or more"),
        ([BOXES[0]], [LABELS], r"boxes \(4,\) and labels \(2,\); expected \(N, 4\) and \(N,\)"),
        ([BOXES], [LABELS[:1]], r"image 0 of the batch: boxes \(2, 4\) and labels \(1,\)"),
        ([BOXES.half()], [LABELS], "boxes are torch.float16"),
        ([BOXES], [LABELS.float()], "labels torch.float32; expected float32 or float64 pixels, and integers"),
        ([BOXES, BOXES.flip(1)], [LABELS, LABELS], "image 1 of the batch: box .* is not .xmin, ymin, xmax, ymax."),
        ([BOXES / 0], [LABELS], "box .inf, inf, inf, inf. is not"),
        ([BOXES], [LABELS - 5], "label -2; expected 1 or more, or 0 .background. or -1 .ignored."),
    ],
)
def test_improper_boxes_are_refused(
    assigner: TargetAssigner, boxes: list[Tensor], labels: list[Tensor], words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        assigner(boxes, labels)


def test_a_config_is_needed() -> None:
    with pytest.raises(UsageError, match="config is of type str"):
        TargetAssigner("d0")  # type: ignore[arg-type]
