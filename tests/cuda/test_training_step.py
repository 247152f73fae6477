"""Updates on a GPU, against the CPU and in 16 bits; skipped without one."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from effdet_torch.train.input.loader import Batch
from effdet_torch.train.objective import DetectionLoss, TargetAssigner
from effdet_torch.train.recipe import OFFICIAL
from effdet_torch.train.step import TrainStep
from effdet_torch.train.updates.schedule import Schedule
from support.coco_samples import small_model

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
UPDATES = 20


def losses(device: str, amp: bool) -> list[float]:
    """Return the losses of some updates on the same images."""
    model = small_model(image_size=(128, 128)).to(device)
    recipe = replace(OFFICIAL, amp=amp, batch=4)
    schedule = Schedule("cosine", 0.01, total_steps=2 * UPDATES)
    step = TrainStep(model, recipe, schedule, DetectionLoss(recipe, model.config))
    boxes, labels = [torch.tensor([[10.0, 20.0, 70.0, 60.0]])] * 4, [torch.tensor([1])] * 4
    images = torch.randn(4, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    batch = Batch(images, TargetAssigner(model.config)(boxes, labels), [1, 2, 3, 4], boxes, labels)
    return [step([batch]).total for _ in range(UPDATES)]


def test_updates_on_a_gpu_are_those_of_the_cpu() -> None:
    found, expected = losses("cuda", amp=False), losses("cpu", amp=False)
    assert found[:5] == pytest.approx(expected[:5], rel=1e-3)
    assert expected[-1] < 0.9 * expected[0]  # something was trained


def test_16_bits_train_as_well() -> None:
    assert losses("cuda", amp=True) == pytest.approx(losses("cuda", amp=False), rel=0.01)
