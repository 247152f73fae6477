"""The network behind a `Predictor`: on one device, in one precision."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from effdet_torch.errors import ConfigError
from effdet_torch.network.model import EfficientDet


class TorchEngine:
    """Map network input to raw outputs.

    A `Predictor` runs the network through this one call, so whatever gives the same outputs can take its place.

    Args:
        model: is moved to `device`.
        device: where the network runs.
        autocast: use torch's mixed precision of the device; otherwise the model's own dtype, with TF32 switched off.
        channels_last: use NHWC memory.
    """

    def __init__(
        self, model: EfficientDet, device: torch.device, *, autocast: bool = False, channels_last: bool = False
    ) -> None:
        self.device, self._autocast = device, autocast
        self._memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self._model = model.to(device)
        if channels_last:
            self._model.to(memory_format=torch.channels_last)

    def __call__(self, pixels: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Return class logits and box deltas per level, see `EfficientDet.forward`, for pixels (B, 3, H, W)."""
        dtype = next(self._model.parameters()).dtype
        pixels = pixels.to(self.device, dtype, non_blocking=True).contiguous(memory_format=self._memory_format)
        with (
            torch.inference_mode(),
            torch.autocast(self.device.type, enabled=self._autocast),
            full_float32(self.device),
        ):
            outputs: tuple[list[Tensor], list[Tensor]] = self._model.eval()(pixels)
        return outputs


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
