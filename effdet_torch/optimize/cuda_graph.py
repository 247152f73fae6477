"""A network as CUDA graphs: all of its kernels are started at once, where starting them one by one takes longer.

Each graph belongs to one shape of the input, and keeps the memory of one run.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from effdet_torch.optimize.compile import Outputs, require_equal

MAX_BATCH = 16  # more images keep a GPU busy while their kernels are started
MAX_GRAPHS = 4
WARM_UP = 3  # runs in which libraries choose their kernels, and allocate


class Recorded(NamedTuple):
    """A graph, the tensor that it reads and those that it writes."""

    graph: torch.cuda.CUDAGraph
    pixels: Tensor
    outputs: Outputs


class GraphedNetwork:
    """A network that runs small batches as CUDA graphs, and others as it is.

    Every graph's first outputs are compared with the network's.

    Args:
        network: on a GPU; it stays there, and its tensors are not replaced.
    """

    def __init__(self, network: nn.Module) -> None:
        self._network = network
        self._recorded: dict[torch.Size, Recorded] = {}

    def __call__(self, pixels: Tensor) -> Outputs:
        """Return what the network returns for pixels (B, 3, H, W), in memory of its own."""
        if (known := self._recorded.get(pixels.shape)) is not None:
            return self._run(known, pixels)
        outputs: Outputs = self._network(pixels)
        if len(pixels) <= MAX_BATCH and len(self._recorded) < MAX_GRAPHS:
            recorded = self._record(pixels)
            require_equal(self._run(recorded, pixels), outputs, "the CUDA graph")
            self._recorded[pixels.shape] = recorded  # not before: a graph that was refused must not run next time
        return outputs

    def _record(self, pixels: Tensor) -> Recorded:
        pixels, graph, stream = pixels.clone(), torch.cuda.CUDAGraph(), torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP):
                self._network(pixels)
        torch.cuda.current_stream().wait_stream(stream)
        # Other threads, such as one that pins memory, may use the GPU meanwhile.
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            outputs: Outputs = self._network(pixels)
        return Recorded(graph, pixels, outputs)

    def _run(self, recorded: Recorded, pixels: Tensor) -> Outputs:
        recorded.pixels.copy_(pixels)
        recorded.graph.replay()
        return tree_map(Tensor.clone, recorded.outputs)
