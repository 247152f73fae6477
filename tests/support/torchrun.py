"""Several processes as torchrun starts them, for functions of the tests."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any, TypeVar

import torch

from effdet_torch.processes import processes

T = TypeVar("T")
SECONDS = 200
# Its server imports torch once, for all tests; it has no threads that a fork could break.
FORKS = get_context("forkserver")
FORKS.set_forkserver_preload(["effdet_torch.train.trainer"])


def run_processes(count: int, function: Callable[..., T], *arguments: Any) -> list[T]:
    """Call `function(processes, *arguments)` in several processes that share tensors by gloo; results by rank.

    The function must be importable, so not of a test file; results must be plain values or arrays.
    """
    port = free_port()
    with ProcessPoolExecutor(count, mp_context=FORKS) as pool:
        calls = [pool.submit(_call, rank, count, port, function, arguments) for rank in range(count)]
        return [call.result(SECONDS) for call in calls]


def free_port() -> int:
    """Return a port that nobody uses now."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def _call(rank: int, count: int, port: int, function: Callable[..., T], arguments: tuple[Any, ...]) -> T:
    values = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in values.items()})
    torch.set_num_threads(1)
    with processes() as group:
        return function(group, *arguments)
