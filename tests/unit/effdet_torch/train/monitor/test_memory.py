"""The largest batch that fits in memory."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from effdet_torch.errors import ConfigError
from effdet_torch.train.monitor.memory import CPU_BATCH, MOST, batch_for, fits, largest, peak_bytes

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(("limit", "expected"), [(1, 1), (7, 4), (8, 8), (10**9, MOST)])
def test_the_largest_power_of_two(limit: int, expected: int) -> None:
    tried = list[int]()
    assert largest(lambda batch: tried.append(batch) or batch <= limit) == expected
    assert tried == [2**n for n in range(len(tried))]


def test_not_even_one_image() -> None:
    with pytest.raises(ConfigError, match="a batch of one image does not fit in memory; use a smaller --image-size"):
        largest(lambda _: False)


def test_nothing_is_measured_on_a_cpu_and_that_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert batch_for(CPU, pytest.fail) == CPU_BATCH
    assert capsys.readouterr().err == "batch auto: 8 images, because nothing is measured on cpu\n"


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A GPU of 1000 bytes, whose `used` a step sets."""
    state = SimpleNamespace(used=0)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda _: None)
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda _: state.used)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(total_memory=1000))
    return state


def test_a_gpu_is_measured(memory: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    def step(batch: int) -> None:
        memory.used = 100 * batch
        if memory.used > 1000:
            raise torch.cuda.OutOfMemoryError

    assert [fits(GPU, step, batch) for batch in (8, 9, 10, 16)] == [True, True, False, False]
    assert batch_for(GPU, step) == 8
    assert "8 images, the largest power of two that fits into 90% of the memory" in capsys.readouterr().err


def test_another_error_is_not_taken_for_one_of_memory(memory: SimpleNamespace) -> None:
    def step(batch: int) -> None:
        raise RuntimeError("a kernel failed")

    with pytest.raises(RuntimeError, match="a kernel failed"):
        batch_for(GPU, step)


def test_this_process_uses_memory() -> None:
    found = peak_bytes(CPU)
    assert found is not None
    assert 50e6 < found < 500e9
