"""Which images are in which batch: one permutation after another, divided among processes."""

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
    """The batches of one process; every iteration goes through those that `choose` named.

    As in the official trainer, the images are repeated before they are divided into batches: a batch may hold the last
    images of one epoch and the first of the next, and no image is left out. The batches that the processes have at the
    same time are neighbours, so that together they are the batches of one process with a batch so much larger.

    Args:
        images: number of images.
        batch: images per batch.
        seed: of the permutations.
        processes: this one among all.
    """

    def __init__(self, images: int, batch: int, seed: int, processes: Processes = ALONE) -> None:
        self._images, self._batch, self._seed, self._processes = images, batch, seed, processes
        self._numbers = range(0)

    def __len__(self) -> int:
        return len(self._numbers)

    def choose(self, start: int, stop: int) -> None:
        """Choose batches by their numbers, which count from 0 over the whole training; `stop` is excluded."""
        self._numbers = range(start, stop)

    def __iter__(self) -> Iterator[list[Key]]:
        at_once, permutations = self._batch * self._processes.count, _Permutations(self._images, self._seed)
        for number in self._numbers:
            places = self._processes.share(range(number * at_once, (number + 1) * at_once))
            yield [permutations.key(*divmod(place, self._images)) for place in places]


class _Permutations:
    """The permutation of the epoch that was asked for last."""

    def __init__(self, images: int, seed: int) -> None:
        self._images, self._seed, self._epoch = images, seed, -1

    def key(self, epoch: int, position: int) -> Key:
        if epoch != self._epoch:
            self._epoch = epoch
            self._samples = np.random.default_rng((self._seed, epoch)).permutation(self._images)
        return Key(epoch, position, int(self._samples[position]))
