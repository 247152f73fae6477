"""The batches of a training, read and augmented by worker processes.

Everything that is random about an image follows from the seed, the epoch, and its position in the epoch: not from the
number of workers or processes, nor from where a training was resumed.
"""

from __future__ import annotations

import gc
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from effdet_torch.config import EfficientDetConfig
from effdet_torch.data.dataset import DataSet
from effdet_torch.errors import EffdetError
from effdet_torch.processes import ALONE, Processes
from effdet_torch.processing.numpy_preprocess import to_network_range
from effdet_torch.train.input.augment import Draw, augment, ordered
from effdet_torch.train.input.example import Example
from effdet_torch.train.input.order import Key, Order
from effdet_torch.train.input.placement import Placement
from effdet_torch.train.input.samples import Samples
from effdet_torch.train.objective.targets import TargetAssigner, Targets
from effdet_torch.train.recipe import Recipe

AHEAD = 2  # batches that every worker prepares before they are asked for


class Batch(NamedTuple):
    """A batch.

    Attributes:
        images: (B, 3, H, W) float32, the network input.
        targets: of all anchors.
        image_ids: of the B images.
        boxes_xyxy: (N, 4) float32 for each image, (xmin, ymin, xmax, ymax) in pixels of the network input.
        labels: (N,) int64 for each image, from 1.
    """

    images: Tensor
    targets: Targets
    image_ids: list[int]
    boxes_xyxy: list[Tensor]
    labels: list[Tensor]


class TrainLoader:
    """The batches of this process.

    Args:
        data: the training images; its category ids are the labels, from 1.
        config: of the model; supplies image size and normalization.
        recipe: supplies batch, augmentations and seed.
        assigner: makes the targets, in the workers.
        workers: processes that read; 0 reads in this one.
        processes: this process among those that train.
        pin_memory: put the batches where a GPU fetches them fastest.

    Raises:
        ConfigError: An augmentation of the recipe is unknown.
        EvaluationError: The data set has no images.
    """

    def __init__(
        self,
        data: DataSet,
        config: EfficientDetConfig,
        recipe: Recipe,
        assigner: TargetAssigner,
        *,
        workers: int,
        processes: Processes = ALONE,
        pin_memory: bool = False,
    ) -> None:
        reader = _Reader(Samples(data, recipe.keep_crowds), config, recipe, assigner)
        self._order = Order(len(data.images), recipe.batch, recipe.seed, processes)
        self._loader: DataLoader[_Packed | EffdetError] = DataLoader(
            cast("Dataset[_Packed | EffdetError]", reader),  # what it calls an item is a whole batch here
            batch_size=None,
            sampler=cast("Sampler[list[Key]]", self._order),
            num_workers=workers,
            collate_fn=cast("Any", _as_it_is),
            worker_init_fn=_settle,
            prefetch_factor=AHEAD if workers else None,
            persistent_workers=workers > 0,
            pin_memory=pin_memory,
            generator=torch.Generator(),  # the global one must not depend on how often a training was resumed
        )

    def batches(self, start: int, stop: int) -> Iterator[Batch]:
        """Read batches, one at a time.

        Args:
            start: number of the first one; they count from 0 over the whole training.
            stop: number of the one after the last.

        Raises:
            ImageError: An image cannot be read; names it.
            EffdetError: The system ended a worker.
        """
        self._order.choose(start, stop)
        for packed in self._received():
            if isinstance(packed, EffdetError):
                raise packed
            yield packed.batch()

    def _received(self) -> Iterator[_Packed | EffdetError]:
        with lost_workers_reported():
            yield from self._loader


@contextmanager
def lost_workers_reported() -> Iterator[None]:
    """Report a worker that the system ended.

    PyTorch raises the error where this process happens to be: waiting for a batch, or in the middle of an update.

    Raises:
        EffdetError: A worker was ended.
    """
    try:
        yield
    except (RuntimeError, EOFError, ConnectionError) as error:  # the last two: in the middle of a batch
        if isinstance(error, RuntimeError) and not str(error).startswith("DataLoader worker"):
            raise
        raise EffdetError(
            f"a process that reads images was ended from outside ({error}), as happens when memory is short; pass "
            "fewer --workers or a smaller --batch; in a container, more shared memory (docker run --shm-size 8g)"
        ) from error


class _Packed(NamedTuple):
    """A batch on its way between processes; tensors of every image would need a file descriptor each."""

    images: Tensor
    targets: Targets
    image_ids: list[int]
    boxes: NDArray[np.float32]  # (N, 4) of all images
    labels: NDArray[np.int64]  # (N,)
    counts: list[int]

    def batch(self) -> Batch:
        boxes, labels = (torch.split(torch.from_numpy(array), self.counts) for array in (self.boxes, self.labels))
        return Batch(self.images, self.targets, self.image_ids, list(boxes), list(labels))


class _Reader:
    """Makes batches; what workers need, and no more."""

    def __init__(self, samples: Samples, config: EfficientDetConfig, recipe: Recipe, assigner: TargetAssigner) -> None:
        self._samples, self._config, self._recipe, self._assigner = samples, config, recipe, assigner
        self._augment = ordered(recipe.augment)
        self._empty = _empty_canvas(config, recipe)

    def __getitem__(self, keys: list[Key]) -> _Packed | EffdetError:
        """Return a batch, or why there is none: raised in a worker, the error's text would hold a traceback."""
        try:
            return self._pack(keys)
        except EffdetError as error:
            return error

    def _pack(self, keys: list[Key]) -> _Packed:
        images = np.empty((len(keys), 3, *self._config.image_size), np.float32)
        placed = [self._place(key, canvas) for key, canvas in zip(keys, images, strict=True)]
        boxes, labels = ([torch.from_numpy(row[i]) for row in placed] for i in (0, 1))
        return _Packed(
            torch.from_numpy(to_network_range(images, self._config)),
            self._assigner(boxes, labels),
            [int(self._samples.image_ids[key.sample]) for key in keys],
            np.concatenate([row[0] for row in placed]),
            np.concatenate([row[1] for row in placed]),
            [len(row[1]) for row in placed],
        )

    def _place(self, key: Key, canvas: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Draw an image on a canvas, (3, H, W); return its boxes, (N, 4) xyxy in pixels, and labels, (N,)."""
        example = self._example(key)
        size = example.image.shape[0], example.image.shape[1]
        placement = Placement.of(size, example.view, self._config.image_size, resize=self._config.resize)
        placement.draw(example.image, canvas, self._empty, self._config)
        boxes, kept = placement.boxes(example.boxes)
        return boxes, example.labels[kept]

    def _example(self, key: Key) -> Example:
        random = key.random(self._recipe.seed)

        def another() -> Example:
            return self._samples.read(int(random.integers(len(self._samples))))

        draw = Draw(random, self._recipe.jitter, self._config.image_size, another)
        return augment(self._samples.read(key.sample), self._augment, draw)


def _empty_canvas(config: EfficientDetConfig, recipe: Recipe) -> NDArray[np.float32]:
    """Return the normalised colour of a canvas without an image, (3, 1, 1)."""
    if recipe.fill_color == "mean" or config.normalization == "advprop":
        return np.zeros((3, 1, 1), np.float32)
    mean, deviation = (np.array(values, np.float32) for values in (config.mean_rgb, config.std_rgb))
    return (-mean / deviation)[:, None, None]


def _as_it_is(packed: _Packed | EffdetError) -> _Packed | EffdetError:
    return packed


def _settle(worker: int) -> None:
    """Prepare a worker.

    The garbage collector must not touch, and so copy, what it shares with its parent; and a signal to all processes,
    Ctrl-C of a terminal or SIGTERM of torchrun and batch systems, is the parent's to deal with: it finishes the update
    first, and needs its batch.
    """
    gc.freeze()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # not on macOS and Windows, where a SIGTERM to all processes ends this one
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_wait_for_the_parent, daemon=True).start()


def _wait_for_the_parent() -> None:
    """End this process at a SIGTERM of its parent, which ends its workers so; others' are meant for the parent."""
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)
