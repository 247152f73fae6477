"""What each of several processes does in the tests of sharing."""

from __future__ import annotations

import os
from typing import Any

import torch

from effdet_torch.errors import EffdetError
from effdet_torch.processes import Processes, processes


def shared(processes: Processes) -> dict[str, Any]:
    """Use every method once."""
    own = torch.tensor([[processes.rank + 1.0, 2.0], [3.0, 4.0]])
    if processes.rank == 1:
        own = own.t().contiguous().t()  # the same values in another order in memory
    overwritten = own.clone()
    processes.broadcast_tensors([overwritten])
    found = {
        "share": list(processes.share(range(5))),
        "gather": processes.gather({"rank": processes.rank}),
        "broadcast": processes.broadcast(["decided by", processes.rank]),
        "broadcast_tensors": overwritten.tolist(),
        "all": [tensor.tolist() for tensor in processes.all(own)],
        "sum": processes.sum(own).tolist(),
        "own": own.tolist(),
        "local_rank": processes.local_rank,
    }
    processes.wait()
    return found


def leave_early(processes: Processes) -> str:
    """The second process leaves while the first one waits for it; return what the first one is told."""
    processes.wait()
    if processes.rank == 0:
        processes.sum(torch.ones(1))
    return "nothing"


def left_alone(rank: int, port: int) -> str:
    """Join, be left, and return the error."""
    join = {"RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in join.items()})
    try:
        with processes() as group:
            return leave_early(group)
    except EffdetError as error:
        return str(error)
