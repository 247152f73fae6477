"""Time and peak memory of a whole update beside the `effdet` package's, on the CPU: same weights and images, in turns.

    python -m benchmarks.training.update [--rounds 9] [--size 256] [--batch 4] [--threads 2]
    python -m benchmarks.training.update --memory      # peak memory instead, a process for every contestant

An update is forward pass, loss, backward pass, clips, SGD and moving averages. `effdet` runs with what its own script
uses: DetBenchTrain, torch's SGD, timm's clip and ModelEmaV2. "labels" assigns the boxes to the anchors inside the
update, as its script does by default; "targets" gets them from the loader, as ours does. The table shows medians, and
as "x" the median of the ratios of the rounds.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks.effdet_model import effdet_model
from benchmarks.equality import enliven
from benchmarks.processes import print_own_peak, print_peaks
from benchmarks.turns import print_race, race
from effdet_torch.geometry.boxes import yxyx_to_xyxy
from effdet_torch.network.checkpoint import create_model
from effdet_torch.network.model import EfficientDet
from effdet_torch.train.objective import DetectionLoss, TargetAssigner, Targets
from effdet_torch.train.recipe import OFFICIAL
from effdet_torch.train.step import TrainStep
from effdet_torch.train.updates.schedule import Schedule

BOXES = 10  # per image
RATE = 1e-4  # so small that random weights stay alive


class Batch(NamedTuple):
    """Images, and boxes (N, 4) xyxy and labels (N,) of each."""

    images: Tensor
    boxes_xyxy: list[Tensor]
    labels: list[Tensor]


class Given(NamedTuple):
    """What `TrainStep` takes."""

    images: Tensor
    targets: Targets


def main() -> None:
    """Read the options, run the benchmark, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--one", choices=CONTESTANTS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # effdet scripts functions while it is imported
    torch.set_num_threads(options.threads)
    if options.memory:
        rest = [argument for argument in sys.argv[1:] if argument != "--memory"]
        return print_peaks("d0 update", CONTESTANTS, "benchmarks.training.update", *rest, "--one")
    batch = random_batch(options.batch, options.size)
    if options.one is not None:
        update = CONTESTANTS[options.one](trained_model(options.size), batch)
        for _ in range(3):
            update()
        return print_own_peak()
    contestants = {name: make(trained_model(options.size), batch) for name, make in CONTESTANTS.items()}
    print_race("d0 update", ((*row, "") for row in race(contestants, options.rounds)))
    return None


def trained_model(size: int) -> EfficientDet:
    """Return d0 with random weights that keep activations alive."""
    torch.manual_seed(0)
    model = create_model("d0", image_size=size)
    enliven(model)
    return model.requires_grad_(requires_grad=True).train()


def random_batch(count: int, size: int) -> Batch:
    """Return images and boxes of all sizes."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(count, 3, size, size, generator=generator)
    low = torch.rand(count, BOXES, 2, generator=generator) * size * 0.75
    sizes = size / 64 * 32 ** torch.rand(count, BOXES, 2, generator=generator)
    boxes = torch.cat((low, (low + sizes).clamp(max=size - 1)), dim=2)
    return Batch(images, list(boxes), list(torch.randint(1, 91, (count, BOXES), generator=generator)))


def ours(model: EfficientDet, batch: Batch) -> Callable[[], Any]:
    """Return our update."""
    given = Given(batch.images, TargetAssigner(model.config)(batch.boxes_xyxy, batch.labels))
    schedule = Schedule("constant", RATE, total_steps=1000)
    step = TrainStep(model, OFFICIAL, schedule, DetectionLoss(OFFICIAL, model.config))
    return lambda: step([given])


def effdet_labels(model: EfficientDet, batch: Batch) -> Callable[[], Any]:
    """Return the update of `effdet` that assigns the boxes itself."""
    target = {"bbox": [yxyx_to_xyxy(boxes) for boxes in batch.boxes_xyxy], "cls": batch.labels}
    return _effdet(model, batch.images, target, create_labeler=True)


def effdet_targets(model: EfficientDet, batch: Batch) -> Callable[[], Any]:
    """Return the update of `effdet` with targets that its loader assigns."""
    from effdet.anchors import AnchorLabeler, Anchors

    network: Any = effdet_model(model)
    labeler = AnchorLabeler(Anchors.from_config(network.config), model.config.num_classes)
    boxes = [yxyx_to_xyxy(boxes) for boxes in batch.boxes_xyxy]
    classes, deltas, positives = labeler.batch_label_anchors(boxes, batch.labels)
    target = {"label_num_positives": positives}
    target |= {f"label_cls_{level}": part for level, part in enumerate(classes)}
    target |= {f"label_bbox_{level}": part for level, part in enumerate(deltas)}
    return _effdet(model, batch.images, target, create_labeler=False)


def _effdet(model: EfficientDet, images: Tensor, target: Any, create_labeler: bool) -> Callable[[], Any]:
    from effdet.bench import DetBenchTrain
    from timm import utils

    tools: Any = utils

    network: Any = effdet_model(model).requires_grad_(requires_grad=True).train()
    bench = DetBenchTrain(network, create_labeler=create_labeler)
    averages = tools.ModelEmaV2(bench, decay=OFFICIAL.ema)
    kernels = [parameter for parameter in network.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in network.parameters() if parameter.ndim <= 1]
    groups = [{"params": kernels, "weight_decay": OFFICIAL.weight_decay}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.SGD(groups, lr=RATE, momentum=OFFICIAL.momentum)

    def update() -> float:
        output = bench(images, target)
        optimizer.zero_grad()
        output["loss"].backward()
        tools.dispatch_clip_grad(network.parameters(), value=OFFICIAL.clip, mode="norm")
        optimizer.step()
        averages.update(bench)
        loss: float = output["loss"].item()
        return loss

    return update


CONTESTANTS: Mapping[str, Callable[[EfficientDet, Batch], Callable[[], Any]]] = {
    "effdet, labels": effdet_labels,
    "effdet, targets": effdet_targets,
    "ours": ours,
}


if __name__ == "__main__":
    main()
