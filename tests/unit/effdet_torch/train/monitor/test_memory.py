"""The largest batch that fits in memory."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from effdet_torch.errors import ConfigError
from effdet_torch.train.monitor import estimate
from effdet_torch.train.monitor.memory import (
    CPU_BATCH,
    MEMORY_FILE,
    MOST,
    batch_for,
    fits,
    free_bytes,
    largest,
    peak_bytes,
    update_bytes,
)
from effdet_torch.train.objective import DetectionLoss
from effdet_torch.train.recipe import make_recipe
from effdet_torch.train.step import TrainStep
from effdet_torch.train.updates.schedule import make_schedule
from support.coco_samples import small_model

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


def step_of(**settings: Any) -> TrainStep:
    recipe, model = make_recipe("default", batch=2, **settings), small_model()
    return TrainStep(model, recipe, make_schedule(recipe, 2, 10), DetectionLoss(recipe, model.config))


def test_what_an_update_keeps_is_known_without_one() -> None:
    """The oracle: a forward pass with values."""
    step, size = step_of(), (128, 192)
    kept = dict[int, int]()

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    images = torch.randn(2, 3, *size).contiguous(memory_format=step.memory_format)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        outputs = step.model(images)
    own = {tensor.data_ptr() for tensor in (*step.model.parameters(), *step.model.buffers())}
    expected = sum(count for place, count in kept.items() if place not in own)
    assert outputs  # keeps what is counted alive
    fixed, per_image = update_bytes(step, 2, size)
    assert per_image == pytest.approx(expected / 2, rel=0.02)
    assert fixed == 2 * sum(parameter.nbytes for parameter in step.model.parameters())
    assert update_bytes(step, 4, size)[1] == pytest.approx(per_image, rel=0.02)
    assert update_bytes(step, 2, (256, 384))[1] == pytest.approx(4 * per_image, rel=0.05)
    assert update_bytes(step_of(amp=True), 2, size)[1] < 0.6 * per_image
    assert not any(tensor.is_meta for tensor in step.model.state_dict().values())


def test_an_update_that_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    step, size = step_of(), (128, 192)
    fixed, per_image = update_bytes(step, 2, size)
    for free, most in ((fixed + 2 * per_image - 1, 1), (fixed + per_image - 1, 0), (0, 0)):
        monkeypatch.setattr(estimate, "free_bytes", lambda _, free=free: free)
        found = estimate.too_large(step, size)
        assert found is not None
        assert (found.needed, found.free, found.most) == (fixed + 2 * per_image, free, most)
        assert f"with 2 images of 192 x 128 pixels needs about {found.needed / 1e9:.1f} GB" in str(found)
        assert (f"pass --batch {most} or less" in str(found)) == (most > 0)
    assert "an update with 1 image of 192 x 128 pixels" in str(found._replace(batch=1))
    for enough in (fixed + 2 * per_image, None):  # negative control, and a system that does not say
        monkeypatch.setattr(estimate, "free_bytes", lambda _, free=enough: free)
        assert estimate.too_large(step, size) is None


def test_free_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("effdet_torch.train.monitor.memory.MEMORY_FILE", tmp_path / "meminfo")
    monkeypatch.setattr("effdet_torch.train.monitor.memory.CONTAINER", tmp_path)
    assert free_bytes(CPU) is None
    (tmp_path / "meminfo").write_text("MemTotal:       100 kB\nMemAvailable:    30 kB\nSwapFree: 7 kB\n")
    assert free_bytes(CPU) == 30 * 1024
    (tmp_path / "memory.current").write_text("8000\n")
    for most, expected in (("max", 30 * 1024), ("20000", 12500), ("1000", 0), ("90000", 30 * 1024)):
        (tmp_path / "memory.max").write_text(f"{most}\n")
        (tmp_path / "memory.stat").write_text("anon 7500\ninactive_file 500\n")
        assert free_bytes(CPU) == expected


@pytest.mark.skipif(not MEMORY_FILE.exists(), reason="Linux has this file")
def test_free_memory_of_this_machine() -> None:
    assert 1 << 20 < (free_bytes(CPU) or 0) < 1 << 50
