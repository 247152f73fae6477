"""Training losses on a GPU, against the CPU; skipped without one."""

from __future__ import annotations

import pytest
import torch

from effdet_torch.config import get_config
from effdet_torch.train.objective import DetectionLoss, TargetAssigner
from effdet_torch.train.recipe import Recipe

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
CONFIG = get_config("d0", image_size=256)
BOXES = [torch.tensor([[10.0, 20.0, 70.0, 60.0], [0.0, 0.0, 200.0, 255.0]]), torch.zeros((0, 4))]
LABELS = [torch.tensor([3, -1]), torch.zeros(0, dtype=torch.int64)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("targets_on", ["cpu", "cuda"])
def test_losses_and_gradients_are_those_of_the_cpu(dtype: torch.dtype, targets_on: str) -> None:
    torch.manual_seed(0)
    sizes, heads = CONFIG.feature_sizes().values(), ((810, -4.0), (36, 0.0))
    cpu = [[(torch.randn(2, channels, *size) + mean).to(dtype) for size in sizes] for channels, mean in heads]
    results = []
    for device in ("cpu", "cuda"):
        outputs = [[level.detach().clone().to(device).requires_grad_() for level in head] for head in cpu]
        targets = TargetAssigner(CONFIG)(BOXES, LABELS).to(targets_on if device == "cuda" else "cpu")
        losses = DetectionLoss(Recipe(iou_loss="ciou", label_smoothing=0.1), CONFIG).to(device)(*outputs, targets)
        losses.total.backward()
        gradients = [level.grad.cpu().float() for head in outputs for level in head if level.grad is not None]
        results.append((torch.stack(losses).cpu().detach(), gradients))
    assert results[0][0].dtype == torch.float32
    torch.testing.assert_close(results[1], results[0], rtol=2e-3 if dtype == torch.float16 else 1e-4, atol=1e-6)


def test_boxes_on_the_gpu_have_the_targets_of_the_cpu() -> None:
    assigner = TargetAssigner(CONFIG)
    found = assigner([boxes.cuda() for boxes in BOXES], [labels.cuda() for labels in LABELS])
    assert all(tensor.is_cuda for tensor in found)
    assert all(map(torch.equal, found.to("cpu"), assigner(BOXES, LABELS)))
