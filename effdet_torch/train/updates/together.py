"""Processes that train one model together: the same start, and the mean of their gradients."""

from __future__ import annotations

from inspect import signature
from typing import Any

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from effdet_torch.processes import Processes
from effdet_torch.train.updates.ema import Averages

# Batch norms keep the statistics of their own process, see `norms.average_statistics`. PyTorch 2.14 has renamed this.
_PARAMETERS = signature(DistributedDataParallel).parameters
OWN_BUFFERS: dict[str, Any] = {
    next(name for name in ("forward_sync_buffers", "broadcast_buffers") if name in _PARAMETERS): False
}


def together(model: nn.Module, averages: Averages | None, processes: Processes) -> nn.Module:
    """Return what runs the model in training; its backward pass averages the gradients of all processes.

    All start from rank 0's values. DistributedDataParallel would only see to the parameters.
    """
    if processes.count == 1:
        return model
    processes.broadcast_tensors(model.state_dict().values())
    processes.broadcast_tensors(averages.values.values() if averages else ())
    return DistributedDataParallel(model, **OWN_BUFFERS)
