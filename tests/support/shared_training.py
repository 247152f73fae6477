"""What each of several processes does in the tests of training together."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from effdet_torch.config import EfficientDetConfig
from effdet_torch.network.model import EfficientDet
from effdet_torch.processes import Processes
from effdet_torch.train.norms import average_statistics
from effdet_torch.train.objective.loss import DetectionLoss
from effdet_torch.train.objective.targets import TargetAssigner, Targets
from effdet_torch.train.recipe import Recipe
from effdet_torch.train.step import TrainStep
from effdet_torch.train.updates.schedule import make_schedule
from support.coco_samples import small_model

STEPS = 3
IMAGES = 5  # per update
# How many boxes each image of an update has: the first two have more than the others together.
BOXES = (6, 4, 0, 1, 2)


class TrainingBatch(NamedTuple):
    """What `TrainStep` needs."""

    images: Tensor
    targets: Targets


def make_batch(config: EfficientDetConfig, step: int, chosen: slice) -> TrainingBatch:
    """Return some of the images of an update."""
    generator = torch.Generator().manual_seed(step)
    images = torch.randn(IMAGES, 3, *config.image_size, generator=generator, dtype=torch.float64)
    corners = [torch.rand(count, 2, generator=generator, dtype=torch.float64) * 40 for count in BOXES]
    sizes = [torch.rand(count, 2, generator=generator, dtype=torch.float64) * 20 + 4 for count in BOXES]
    boxes_xyxy = [torch.cat([corner, corner + size], 1) for corner, size in zip(corners, sizes, strict=True)]
    labels = [torch.arange(count) % config.num_classes + 1 for count in BOXES]
    return TrainingBatch(images[chosen], TargetAssigner(config)(boxes_xyxy[chosen], labels[chosen]))


def train_together(
    processes: Processes, firsts: tuple[int, ...], trainings: tuple[dict[str, Any], ...]
) -> list[dict[str, Any]]:
    """Train, once for each of several settings; return losses, weights, statistics and averages.

    The images of an update from `firsts[rank]` up to the next process's are this one's. A process starts with weights
    of its own, which must not count unless it is the first.
    """
    chosen = slice(*[*firsts, IMAGES][processes.rank : processes.rank + 2])
    return [_train(processes, chosen, Recipe(epochs=2, base_rate=0.5, **settings)) for settings in trainings]


def _train(processes: Processes, chosen: slice, recipe: Recipe) -> dict[str, Any]:
    model = small_model(processes.rank).double()
    schedule, loss = make_schedule(recipe, IMAGES, 3), DetectionLoss(recipe, model.config)
    step = TrainStep(model, recipe, schedule, loss, processes)
    losses = [list(step([make_batch(model.config, number, chosen)])[:7]) for number in range(STEPS)]
    assert step.averages is not None
    found = {"losses": torch.tensor(losses, dtype=torch.float64)} | _values(model, processes)
    with step.averages.swapped(model):
        found |= {f"ema {name}": tensor for name, tensor in _values(model, processes).items()}
    return {name: tensor.numpy() for name, tensor in found.items()}


def _values(model: EfficientDet, processes: Processes) -> dict[str, Tensor]:
    average_statistics(model, processes)
    return {name: tensor.clone() for name, tensor in model.state_dict().items() if tensor.is_floating_point()}
