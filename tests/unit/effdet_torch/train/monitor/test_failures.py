"""Failures in the words of a training."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from effdet_torch.errors import NonFiniteOutputError, TrainingError
from effdet_torch.train.monitor.failures import divergence_reported, full_memory_reported, restart_named


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


@pytest.mark.parametrize(
    ("saved", "words"),
    [
        ((), "; start again"),
        (("last.pth",), "; start again from {0}/last.pth (--from), in another folder"),
        (("last.pth", "best.pth"), "; start again from {0}/last.pth or {0}/best.pth (--from), in another folder"),
    ],
)
def test_only_files_that_exist_are_named(tmp_path: Path, saved: tuple[str, ...], words: str) -> None:
    for name in saved:
        (tmp_path / name).touch()
    expected = words.format(tmp_path)
    with pytest.raises(TrainingError) as found, restart_named(tmp_path):
        raise TrainingError("the loss is nan; pass a lower --lr")
    assert str(found.value) == f"the loss is nan; pass a lower --lr{expected}"
    with pytest.raises(TrainingError) as found, divergence_reported("ema", tmp_path):
        raise NonFiniteOutputError(0)
    assert "diverged: the ema weights give boxes" in str(found.value)
    assert str(found.value).endswith(f"lower --lr or more --warmup-epochs{expected}")
