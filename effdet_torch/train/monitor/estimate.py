"""How long a training will take and how much memory it needs, from a few updates."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import NamedTuple

from effdet_torch.data.dataset import DataSet
from effdet_torch.network.model import EfficientDet
from effdet_torch.train.input.loader import Batch
from effdet_torch.train.monitor.memory import peak_bytes
from effdet_torch.train.run.progress import duration
from effdet_torch.train.step import TrainStep
from effdet_torch.train.validate import validate

UPDATES = 3  # the first one also allocates and starts workers
VALIDATED = 8


class Estimate(NamedTuple):
    """What a whole training takes on this machine.

    Attributes:
        update_seconds: of one update.
        updates: of the whole training.
        validation_seconds: of all copies of the weights on all images.
        validations: of the whole training.
        memory_bytes: the most that the updates needed; None if unknown.
    """

    update_seconds: float
    updates: int
    validation_seconds: float
    validations: int
    memory_bytes: int | None

    @property
    def seconds(self) -> float:
        """Of the whole training."""
        return self.update_seconds * self.updates + self.validation_seconds * self.validations

    def __str__(self) -> str:
        memory = "" if self.memory_bytes is None else f"; memory {self.memory_bytes / 1e9:.1f} GB"
        return (
            f"about {duration(self.seconds)}: {self.updates} updates of {self.update_seconds:.2f} s, "
            f"{self.validations} validations of {duration(self.validation_seconds)}{memory}"
        )


def estimate(
    step: TrainStep,
    groups: Iterator[Sequence[Batch]],
    model: EfficientDet,
    val: DataSet,
    updates: int,
    validations: int,
) -> Estimate:
    """Do a few updates and validate on a few images; the model is of no use afterwards.

    Args:
        step: the updates.
        groups: their batches.
        model: that is trained.
        val: the images for validation.
        updates: of the whole training.
        validations: of the whole training.
    """
    seconds = list[float]()
    start = time.monotonic()
    for group in islice(groups, UPDATES):
        step(group)
        seconds.append(time.monotonic() - start)
        start = time.monotonic()
    memory = peak_bytes(step.device)
    some = val.first(VALIDATED)
    start = time.monotonic()
    validate(model, some, workers=0)
    per_image = (time.monotonic() - start) / len(some.images)
    copies = 1 if step.averages is None else 2
    return Estimate(min(seconds), updates, per_image * copies * len(val.images), validations, memory)
