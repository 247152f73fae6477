"""How long a training will take and how much memory it needs, from a few updates."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from effdet_torch.data.dataset import DataSet
from effdet_torch.network.model import EfficientDet
from effdet_torch.terminal.text import counted
from effdet_torch.train.input.loader import Batch
from effdet_torch.train.monitor.memory import free_bytes, peak_bytes, update_bytes
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
            f"about {duration(self.seconds)}: {counted(self.updates, 'update')} of {self.update_seconds:.2f} s, "
            f"{counted(self.validations, 'validation')} of {duration(self.validation_seconds)}{memory}"
        )


class TooLarge(NamedTuple):
    """An update that does not fit into the memory, and was not tried: a CPU's system would end the process.

    Attributes:
        batch: images of a forward pass.
        image_size: (height, width) in pixels.
        needed: bytes of an update, beside the model.
        free: bytes.
        most: the largest batch that fits; 0 if none does.
    """

    batch: int
    image_size: tuple[int, int]
    needed: int
    free: int
    most: int

    def __str__(self) -> str:
        size = "{1} x {0}".format(*self.image_size)
        images = counted(self.batch, "image")
        needed, free = (f"{count / 1e9:.1f} GB" for count in (self.needed, self.free))
        helps = "not one image fits; pass a smaller --image-size or --variant, or --amp"
        if self.most:
            helps = (
                f"pass --batch {self.most} or less (with --grad-accum for as many images per update), a smaller "
                "--image-size, or --amp"
            )
        return (
            f"not measured: an update with {images} of {size} pixels needs about {needed}, and {free} are free; {helps}"
        )


def too_large(step: TrainStep, image_size: tuple[int, int]) -> TooLarge | None:
    """Return that an update does not fit into the memory that is free; None if it does, or nobody knows.

    Args:
        step: the updates; has done none.
        image_size: (height, width) in pixels.
    """
    free, batch = free_bytes(step.device), step.recipe.batch
    fixed, per_image = update_bytes(step, batch, image_size)
    if free is None or (needed := fixed + batch * per_image) <= free:
        return None
    return TooLarge(batch, image_size, needed, free, max(0, free - fixed) // per_image)


def estimate(
    step: TrainStep,
    groups: Iterable[Sequence[Batch]],
    model: EfficientDet,
    val: DataSet,
    updates: int,
    validations: int,
) -> Estimate:
    """Do a few updates and validate on a few images; the model is of no use afterwards.

    Args:
        step: the updates.
        groups: the batches of `UPDATES` of them.
        model: that is trained.
        val: the images for validation.
        updates: of the whole training.
        validations: of the whole training.
    """
    seconds = list[float]()
    start = time.monotonic()
    for group in groups:
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
