"""Failures in the words of a training."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from effdet_torch.errors import EvaluationError, NonFiniteOutputError, TrainingError
from effdet_torch.train.monitor.failures import divergence_reported, full_memory_reported


@pytest.mark.parametrize(
    "error",
    [
        torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_full_memory(error: RuntimeError) -> None:
    with pytest.raises(TrainingError, match="the memory is full: pass a smaller --batch"), full_memory_reported():
        raise error


def test_other_errors_stay_what_they_are() -> None:
    """Negative control."""
    with pytest.raises(RuntimeError, match="another fault") as found, full_memory_reported():
        raise RuntimeError("another fault")
    assert not isinstance(found.value, TrainingError)


def test_divergence() -> None:
    expected = "diverged: the ema weights give boxes .* another folder than runs/a with a lower --lr"
    with pytest.raises(TrainingError, match=expected), divergence_reported("ema", Path("runs/a")):
        raise EvaluationError("the box of a detection is not a number")
    with pytest.raises(TrainingError, match=expected), divergence_reported("ema", Path("runs/a")):
        raise NonFiniteOutputError(0)
