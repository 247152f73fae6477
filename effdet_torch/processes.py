"""Several processes, as torchrun starts them: each takes its share of the images.

An error in one process ends it; torchrun then ends the others, on every node. A process that waits for one that ended
is told at once (gloo), or after `TIMEOUT`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from effdet_torch.errors import EffdetError, UsageError

T = TypeVar("T")
TIMEOUT = timedelta(minutes=30)  # the others wait while the first one computes the metrics of a large data set
VARIABLES = ("RANK", "MASTER_ADDR", "MASTER_PORT")  # which torchrun sets beside WORLD_SIZE


@dataclass(frozen=True)
class Processes:
    """This process among all. Every method but `share` must be called in all processes, in the same order.

    Attributes:
        rank: of this process, from 0; 0 is the one that reports.
        count: of all processes.
        local_rank: of this process on its machine, from 0: which GPU it takes, see `usable_device`.
    """

    rank: int = 0
    count: int = 1
    local_rank: int = 0

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

    def broadcast(self, value: T) -> T:
        """Return rank 0's value in all processes: what the first one decides, all do."""
        if self.count == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values)
        return values[0]

    @torch.no_grad()
    def broadcast_tensors(self, tensors: Iterable[Tensor]) -> None:
        """Overwrite tensors, of equal shapes and types in all processes, with rank 0's; any memory layout."""
        for tensor in tensors if self.count > 1 else ():
            values = _in_order(tensor)
            dist.broadcast(values, 0)
            tensor.copy_(values)

    def all(self, tensor: Tensor) -> list[Tensor]:
        """Return the tensors of all processes, of equal shapes, in all of them, in the order of the ranks."""
        if self.count == 1:
            return [tensor]
        own = _in_order(tensor)
        found = [torch.empty_like(own) for _ in range(self.count)]
        dist.all_gather(found, own)
        return found

    def sum(self, tensor: Tensor) -> Tensor:
        """Return the sum of a tensor over all processes, in all of them; no gradient passes."""
        if self.count == 1:
            return tensor
        total = _in_order(tensor)
        dist.all_reduce(total)
        return total


def _in_order(tensor: Tensor) -> Tensor:
    """Return a copy with its values in the order of the axes: memory is sent as it is, and layouts may differ."""
    return tensor.detach().clone(memory_format=torch.contiguous_format)


ALONE = Processes()


@contextmanager
def processes(device: str = "cpu") -> Iterator[Processes]:
    """Join the other processes that torchrun started, or be alone.

    Args:
        device: what tensors are shared from besides the CPU: with "cuda..." nccl carries those on the GPUs. Each
            process must then take its own, by `usable_device(device, local_rank)`, before it shares anything.

    Raises:
        UsageError: The environment says that there are several processes, but not where.
        EffdetError: The others cannot be reached; or one of them ended, or did not answer within `TIMEOUT`.
    """
    if os.environ.get("WORLD_SIZE", "1") == "1":
        yield ALONE
        return
    _join(device)
    rank, count = dist.get_rank(), dist.get_world_size()
    try:
        yield Processes(rank, count, int(os.environ.get("LOCAL_RANK", rank)))
    except RuntimeError as error:
        if not (isinstance(error, dist.DistError) or "gloo" in str(error)):  # gloo's errors have no class of their own
            raise
        raise EffdetError(
            f"process {rank} of {count} lost the others: one of them ended, or did not answer within {TIMEOUT}",
            "The cause is in the first error that torchrun shows.",
        ) from error
    finally:
        dist.destroy_process_group()


def _join(device: str) -> None:
    count = os.environ["WORLD_SIZE"]
    if missing := [name for name in VARIABLES if not os.environ.get(name)]:
        raise UsageError(
            f"WORLD_SIZE is {count}, but {', '.join(missing)} is not set; start several processes with torchrun, which "
            "sets all of them, or unset WORLD_SIZE for one process"
        )
    rank, address, port = (os.environ[name] for name in VARIABLES)
    # Plain values, such as detections, are shared from the CPU.
    backend = "cpu:gloo,cuda:nccl" if device.startswith("cuda") else "gloo"
    try:
        dist.init_process_group(backend, timeout=TIMEOUT)
    except dist.DistError as error:
        reason = str(error).splitlines()[0]
        raise EffdetError(
            f"process {rank} cannot join the {count} processes at {address}, port {port}: {reason}",
            "Check that all of them were started, that every machine reaches this address, and that the port is free.",
        ) from error
