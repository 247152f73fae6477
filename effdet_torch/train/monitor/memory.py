"""How much memory a training takes, and the largest batch that fits."""

from __future__ import annotations

import sys
from collections.abc import Callable

import torch

from effdet_torch.errors import ConfigError
from effdet_torch.terminal.verbosity import tell

CPU_BATCH = 8  # larger ones are not faster on a CPU, and its memory is shared with everything else
MOST = 512  # images; a larger batch needs another learning rate than the recipes were made for
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
    tell(f"batch auto: {batch} images, the largest power of two that fits into {SHARE:.0%} of the memory", err=True)
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
