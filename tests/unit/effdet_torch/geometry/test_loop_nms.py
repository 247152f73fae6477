"""The NMS of exported graphs selects what `geometry.nms` selects, box by box."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from effdet_torch.geometry.loop_nms import loop_nms
from effdet_torch.geometry.nms import non_max_suppression

# Without torch's compiler, which `while_loop` would start: the loop itself is what is tested here.
pytestmark = pytest.mark.usefixtures("plain_loop")


@pytest.fixture
def plain_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(goes_on: Any, turn: Any, values: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        while goes_on(*values):
            values = turn(*values)
        return values

    monkeypatch.setattr("effdet_torch.geometry.loop_nms.while_loop", run)


def crowd(batch: int, count: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes that overlap, some of them equal, empty or turned; scores with ties; classes in order."""
    generator = torch.Generator().manual_seed(seed)
    centers = torch.randint(0, 40, (batch, count, 2), generator=generator).float()
    sides = torch.randint(-2, 30, (batch, count, 2), generator=generator).float()
    boxes = torch.cat((centers - sides / 2, centers + sides / 2), dim=2)
    scores = torch.randint(0, 50, (batch, count), generator=generator) / 50
    return boxes, scores, torch.randint(0, 4, (batch, count), generator=generator).sort(dim=1).values


HARD = {"iou_threshold": 0.4}
SOFT = {"soft_nms_sigma": 0.25, "score_threshold": 0.001}


@pytest.mark.parametrize("settings", [HARD, SOFT, HARD | {"score_threshold": 0.3}, SOFT | {"max_outputs": 7}])
@pytest.mark.parametrize("per_class", [True, False])
@pytest.mark.parametrize("count", [1, 300])
def test_it_selects_the_same(settings: dict[str, Any], per_class: bool, count: int) -> None:
    for seed in range(5):
        boxes, scores, classes = crowd(2, count, seed)
        given = boxes, scores, classes if per_class else None
        found, expected = loop_nms(*given, **settings), non_max_suppression(*given, **settings)
        assert torch.equal(found[0], expected[0])
        assert torch.allclose(found[1], expected[1], atol=1e-6, rtol=0)
        assert torch.equal(found[2], expected[2])


def test_other_settings_select_others() -> None:
    """Negative control."""
    boxes, scores, classes = crowd(1, 300, 0)
    expected = non_max_suppression(boxes, scores, classes, **SOFT)
    assert not torch.equal(loop_nms(boxes, scores, classes, **HARD)[0], expected[0])
    assert not torch.equal(loop_nms(boxes, scores, None, **SOFT)[0], expected[0])
