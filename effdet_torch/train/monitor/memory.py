"""How much memory a training takes, and the largest batch that fits."""

from __future__ import annotations

import sys
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import torch
from torch import Tensor, UntypedStorage

from effdet_torch.errors import ConfigError
from effdet_torch.terminal.text import counted
from effdet_torch.terminal.verbosity import tell
from effdet_torch.train.step import HALF, TrainStep

CPU_BATCH = 8  # larger ones are not faster on a CPU, and its memory is shared with everything else
MOST = 512  # images; a larger batch needs another learning rate than the recipes were made for
MEMORY_FILE = Path("/proc/meminfo")
CONTAINER = Path("/sys/fs/cgroup")  # where Linux says how much memory a container may use, and uses
SHARE = 0.9  # of a GPU's memory: later batches may have more objects, and other libraries need some as well


def peak_bytes(device: torch.device) -> int | None:
    """Return the most memory that the training has used: the tensors of a GPU, or this whole process on a CPU.

    None where the system does not say.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def batch_for(device: torch.device, attempt: Callable[[int], object]) -> int:
    """Return the batch size for a device: measured on a GPU, `CPU_BATCH` on anything else; the user is told.

    Args:
        device: where the model is trained.
        attempt: does one whole step with a number of images, and leaves the model as it was.

    Raises:
        ConfigError: Not even one image fits.
    """
    if device.type != "cuda":
        tell(f"batch auto: {CPU_BATCH} images, because nothing is measured on {device.type}", err=True)
        return CPU_BATCH
    batch = largest(lambda count: fits(device, attempt, count))
    torch.cuda.empty_cache()
    tell(
        f"batch auto: {counted(batch, 'image')}, the largest power of two that fits into {SHARE:.0%} of the memory",
        err=True,
    )
    return batch


def largest(is_possible: Callable[[int], bool], most: int = MOST) -> int:
    """Return the largest power of two up to `most` for which, and for all smaller ones, something is possible.

    Raises:
        ConfigError: It is not possible for 1.
    """
    batch = 0
    while max(1, 2 * batch) <= most and is_possible(max(1, 2 * batch)):
        batch = max(1, 2 * batch)
    if not batch:
        raise ConfigError("a batch of one image does not fit in memory; use a smaller --image-size, or --amp")
    return batch


def fits(device: torch.device, attempt: Callable[[int], object], batch: int) -> bool:
    """Return whether a step with a batch fits into `SHARE` of a GPU's memory."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    try:
        attempt(batch)
    except torch.cuda.OutOfMemoryError:
        return False  # what the step held is free only once this function has returned
    return torch.cuda.max_memory_reserved(device) <= SHARE * torch.cuda.get_device_properties(device).total_memory


def update_bytes(step: TrainStep, batch: int, image_size: tuple[int, int]) -> tuple[int, int]:
    """Return about how much memory an update adds to the model's, in bytes: (whatever the batch, for each image).

    A copy of the network without values runs forwards, and what it would keep for the backward pass is added up.

    Args:
        step: the updates; has done none.
        batch: images of a forward pass.
        image_size: (height, width) in pixels.
    """
    dtype = HALF.get(step.device.type, step.dtype) if step.recipe.amp else step.dtype
    network = deepcopy(step.model).to("meta", dtype)
    images = torch.empty(batch, 3, *image_size, device="meta", dtype=dtype)
    own = {tensor.untyped_storage()._cdata for tensor in (*network.parameters(), *network.buffers())}
    kept = dict[int, UntypedStorage]()  # by what is alike in all views of a tensor

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage()._cdata] = tensor.untyped_storage()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        network(images.contiguous(memory_format=step.memory_format))
    activations = sum(storage.nbytes() for key, storage in kept.items() if key not in own)
    trained = sum(parameter.nbytes for parameter in step.trained.values())
    return 2 * trained, activations // batch  # gradients and momentum


def free_bytes(device: torch.device) -> int | None:
    """Return how much memory is free on a GPU, or for processes of this machine; None where the system does not say."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    found = [_field(MEMORY_FILE, "MemAvailable:", unit=1024), _free_in_container()]
    return min((count for count in found if count is not None), default=None)


def _free_in_container() -> int | None:
    """Return how much of its limit a container has left, in bytes; None without a limit."""
    try:
        most, used = (int((CONTAINER / f"memory.{name}").read_text()) for name in ("max", "current"))
    except (OSError, ValueError):  # "max" stands for no limit
        return None
    return max(0, most - used + (_field(CONTAINER / "memory.stat", "inactive_file") or 0))  # given back when needed


def _field(path: Path, name: str, unit: int = 1) -> int | None:
    """Return a number from a file of lines `name number`."""
    try:
        lines = [line.split() for line in path.read_text().splitlines()]
    except OSError:
        return None
    return next((int(line[1]) * unit for line in lines if line[:1] == [name]), None)
