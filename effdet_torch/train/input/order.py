"""Which images are in which batch of an epoch: a permutation, divided among processes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from effdet_torch.processes import ALONE, Processes


class Key(NamedTuple):
    """An image at its place in a training.

    Attributes:
        epoch: from 0.
        position: in the permutation of the epoch; together with the epoch it decides all that is random.
        sample: number of the image in the data set.
    """

    epoch: int
    position: int
    sample: int

    def random(self, seed: int) -> np.random.Generator:
        """Return the random numbers of the image here."""
        return np.random.default_rng((seed, self.epoch, self.position + 1))


class Order:
    """The batches of one process; every iteration goes through what is left of the epoch that `start` chose.

    An epoch has whole batches only. If there are fewer images than all processes take at once, they are repeated until
    one batch is full. The batches that the processes have at the same time are neighbours in the permutation, so that
    together they are the batches of one process with a batch so much larger.

    Args:
        images: number of images.
        batch: images per batch.
        seed: of the permutations.
        processes: this one among all.
    """

    def __init__(self, images: int, batch: int, seed: int, processes: Processes = ALONE) -> None:
        self._images, self._batch, self._seed, self._processes = images, batch, seed, processes
        self._at_once = batch * processes.count
        self._epoch = self._skip = 0

    def __len__(self) -> int:
        return max(1, self._images // self._at_once)

    @property
    def repeats(self) -> bool:
        """Whether images are repeated to fill the only batch."""
        return self._images < self._at_once

    def start(self, epoch: int, skip: int = 0) -> None:
        """Choose the epoch, and how many of its batches are skipped."""
        self._epoch, self._skip = epoch, skip

    def __iter__(self) -> Iterator[list[Key]]:
        epoch, used = self._epoch, len(self) * self._at_once
        permutation = np.random.default_rng((self._seed, epoch)).permutation(self._images)
        places = self._processes.share(range(used))
        for start in range(self._skip * self._batch, len(places), self._batch):
            positions = places[start : start + self._batch]
            yield [Key(epoch, position, int(permutation[position % self._images])) for position in positions]
