"""The network behind a `Predictor`: on one device, in one precision."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, get_args

import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils._pytree import tree_map

from effdet_torch.errors import ConfigError
from effdet_torch.network.model import EfficientDet
from effdet_torch.optimize.compile import CompiledNetwork, Outputs
from effdet_torch.optimize.cuda_graph import GraphedNetwork
from effdet_torch.optimize.current import TensorState
from effdet_torch.optimize.fuse import fuse
from effdet_torch.optimize.precision import Precision


class TorchEngine:
    """Map network input to raw outputs.

    A `Predictor` runs the network through this one call, so whatever gives the same outputs can take its place.

    On a CPU images run one by one: one image's features stay in the cache and in memory that is used again, and kernels
    for other batch sizes round differently (1e-6 in the scores, enough to swap equals).

    Args:
        model: is moved to `device`.
        device: where the network runs.
        precision: of a fused network; "model" is the model's own. In float32, TF32 is switched off.
        fused: run the network that `optimize.fuse` returns. It is made again once a module or tensor of `model` has
            changed; what is changed through `.data` or in inference mode, PyTorch does not track. On a GPU, small
            batches run as CUDA graphs. Otherwise `model` itself runs, in eval mode.
        compiled: run the fused network through `torch.compile`, see `optimize.compiled`.

    Attributes:
        model: the network.
        config: its configuration.
        metadata: where its weights came from.
        device: where it runs.
        dtype: in which it computes.

    Raises:
        ConfigError: The options do not fit together.
    """

    def __init__(
        self,
        model: EfficientDet,
        device: torch.device,
        *,
        precision: Precision = "model",
        fused: bool = True,
        compiled: bool = False,
    ) -> None:
        if precision not in get_args(Precision):
            raise ConfigError(f"precision is {precision!r}; expected one of {', '.join(get_args(Precision))}")
        if not fused and (precision != "model" or compiled):
            raise ConfigError("precision and compiled need fused=True")
        self.device, self._is_fused, self._is_compiled = device, fused, compiled
        self.model, self.config = model.to(device), model.config
        self.metadata: Mapping[str, Any] = model.metadata
        self.dtype = next(model.parameters()).dtype if precision == "model" else getattr(torch, precision)
        self._eager: TensorState | None = None
        # Both at once: another thread must not see a new state beside an old network.
        self._fused: tuple[TensorState, Callable[[Tensor], Outputs]] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the fused network: in a copy, tensors are counted from 0, so an old one would pass for current."""
        return {**self.__dict__, "_fused": None, "_eager": None}

    def __call__(self, pixels: Tensor | NDArray[Any]) -> Outputs:
        """Return what the network does, see `EfficientDet.forward`, for pixels (B, 3, H, W)."""
        layout = memory_format(self.device, self.dtype) if self._is_fused else torch.contiguous_format
        tensor = torch.as_tensor(pixels).to(self.device, self.dtype, non_blocking=True).contiguous(memory_format=layout)
        with torch.inference_mode(), full_float32(self.device):
            network = self._fused_network() if self._is_fused else self._eager_network()
            batches = [tensor[i : i + 1] for i in range(len(tensor))] if self.device.type == "cpu" else [tensor]
            outputs = [network(batch) for batch in batches]
            return outputs[0] if len(outputs) == 1 else _joined(outputs)

    def _eager_network(self) -> EfficientDet:
        if self._eager is None or not self._eager.is_current():
            self._eager = TensorState(self.model)
        if any(module.training for module in self._eager.modules):  # eval() takes much longer
            self.model.eval()
        return self.model

    def _fused_network(self) -> Callable[[Tensor], Outputs]:
        if self._fused is not None and self._fused[0].is_current():
            return self._fused[1]
        state = TensorState(self.model)
        fused = fuse(self.model, widen=self.device.type == "cpu")
        fused = fused.to(self.dtype).to(memory_format=memory_format(self.device, self.dtype))
        network: Callable[[Tensor], Outputs] = fused
        if self._is_compiled:
            network = CompiledNetwork(fused)
        elif self.device.type == "cuda":
            network = GraphedNetwork(fused)
        self._fused = state, network
        return network


def memory_format(device: torch.device, dtype: torch.dtype) -> torch.memory_format:
    """Return the layout in which a fused network is fastest: NHWC, except for float32 on a GPU."""
    is_slow = device.type != "cpu" and dtype == torch.float32
    return torch.contiguous_format if is_slow else torch.channels_last


def _joined(outputs: Sequence[Outputs]) -> Outputs:
    """Join the outputs of single images along the batch."""
    return tree_map(lambda *parts: torch.cat(parts), *outputs)


def default_device() -> str:
    """Return the GPU if there is one, else the CPU."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def usable_device(device: torch.device | str, rank: int | None = None) -> torch.device:
    """Return a device that was tried.

    Args:
        device: "cpu", "cuda", "cuda:1", ...
        rank: of this process, if several share the work: for "cuda" every rank takes another GPU. A rank's GPU
            becomes the current one.

    Raises:
        ConfigError: The device does not exist, or cannot be used.
    """
    try:
        found = torch.device(device)
        if rank is not None and str(found) == "cuda":
            found = torch.device("cuda", rank % max(1, torch.cuda.device_count()))
        torch.zeros(1, device=found).cpu()
        if rank is not None and found.type == "cuda":
            torch.cuda.set_device(found)  # pinned memory and the like belong to the current one
    except (RuntimeError, TypeError, AssertionError) as error:  # a PyTorch without CUDA asserts
        # Of PyTorch's texts, one lists all devices that it was ever built for, another explains drivers.
        lines = str(error).splitlines()[0].split(". ")
        reason = "it does not exist" if lines[0].startswith("Expected one of") else lines[0]
        raise ConfigError(
            f"the device {str(device)!r} cannot be used: {reason}; expected cpu, cuda, cuda:1, ..., or none: then the "
            "GPU is used if there is one, else the CPU"
        ) from error
    return found


@contextmanager
def full_float32(device: torch.device) -> Iterator[None]:
    """Keep a GPU's convolutions in full float32 precision; TF32 has a mantissa of 10 bits."""
    if device.type != "cuda":
        yield
        return
    cudnn = torch.backends.cudnn
    # Since PyTorch 2.9 convolutions have a setting of their own, beside which the older one may refuse to be read.
    owner, name, full = (
        (cudnn.conv, "fp32_precision", "ieee") if hasattr(cudnn, "conv") else (cudnn, "allow_tf32", False)
    )
    before = getattr(owner, name)
    setattr(owner, name, full)
    try:
        yield
    finally:
        setattr(owner, name, before)
