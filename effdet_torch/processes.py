"""Several processes, as torchrun starts them: each takes its share of the images."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch.distributed as dist

T = TypeVar("T")


@dataclass(frozen=True)
class Processes:
    """This process among all.

    Attributes:
        rank: of this process, from 0; 0 is the one that reports.
        count: of all processes.
    """

    rank: int = 0
    count: int = 1

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """Return this process's part: every `count`-th item, so that all parts take about as long."""
        return items[self.rank :: self.count]

    def wait(self) -> None:
        """Wait until all processes have reached this point."""
        if self.count > 1:
            dist.barrier()

    def gather(self, value: T) -> list[T]:
        """Return the values of all processes in rank 0, in the order of the ranks, and nothing in the others."""
        if self.count == 1:
            return [value]
        values: list[Any] | None = [None] * self.count if self.rank == 0 else None
        dist.gather_object(value, values)
        return values or []


ALONE = Processes()


@contextmanager
def processes() -> Iterator[Processes]:
    """Join the other processes that torchrun started, or be alone."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield ALONE
        return
    dist.init_process_group("gloo")  # detections are plain values: they do not pass through a GPU
    try:
        yield Processes(dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()
