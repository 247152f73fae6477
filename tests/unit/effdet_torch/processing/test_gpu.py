"""The GPU path, here on the CPU, against the CPU path."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from effdet_torch.config import get_config
from effdet_torch.errors import NonFiniteOutputError
from effdet_torch.processing.cpu import CpuProcessing, as_array
from effdet_torch.processing.gpu import GpuProcessing
from effdet_torch.processing.profiles import PROFILES

CONFIG = get_config("d0", image_size=(96, 160), num_classes=6)


@pytest.mark.parametrize("profile", PROFILES)
def test_both_give_the_same(profile: str) -> None:
    random, sizes = np.random.default_rng(0), list(CONFIG.feature_sizes().values())
    images = [random.integers(0, 256, (*size, 3), dtype=np.uint8) for size in ((60, 50), (200, 300), (96, 160))]
    cpu, gpu = CpuProcessing(CONFIG), GpuProcessing(CONFIG, "cpu")
    for found, expected in zip(gpu.prepare(images), cpu.prepare(images), strict=True):
        np.testing.assert_array_equal(found.numpy(), expected, strict=True)
    heads = [[torch.from_numpy(random.standard_normal((3, 9 * n, *s), np.float32)) for s in sizes] for n in (6, 4)]
    for level in heads[0]:
        level[1] -= 12  # of the second image nothing is found in the soft profiles
    scales = gpu.prepare(images)[1]
    results = zip(*(side.detections(*heads, scales, PROFILES[profile]) for side in (cpu, gpu)), strict=True)
    for on_cpu, on_gpu in results:
        np.testing.assert_array_equal(on_gpu.classes, on_cpu.classes, strict=True)
        np.testing.assert_allclose(on_gpu.scores, on_cpu.scores, atol=1e-6, rtol=0, strict=True)
        np.testing.assert_allclose(on_gpu.boxes_xyxy, on_cpu.boxes_xyxy, atol=1e-3, rtol=0, strict=True)


@pytest.mark.parametrize("profile", ["object-detection-api", "serving"])
def test_more_detections_than_there_can_be_take_no_memory(profile: str) -> None:
    """On the CPU as well; 2^40 detections would not fit."""
    config = get_config("d0", image_size=(96, 160), num_classes=3)
    random, sizes = np.random.default_rng(0), list(config.feature_sizes().values())
    heads = [[torch.from_numpy(random.standard_normal((1, 9 * n, *s), np.float32)) for s in sizes] for n in (3, 4)]
    settings = replace(PROFILES[profile], score_threshold=0.6, max_detections=1 << 40, max_candidates=3000)
    cpu, gpu = CpuProcessing(config), GpuProcessing(config, "cpu")
    scales = gpu.prepare([np.zeros((96, 160, 3), np.uint8)])[1]
    (on_cpu,), (on_gpu,) = (side.detections(*heads, scales, settings) for side in (cpu, gpu))
    assert len(on_cpu.scores) > 100
    np.testing.assert_array_equal(on_gpu.classes, on_cpu.classes, strict=True)
    np.testing.assert_allclose(on_gpu.scores, on_cpu.scores, atol=1e-6, rtol=0, strict=True)


@pytest.mark.parametrize("profile", ["official-eval", "serving", "object-detection-api"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("head", [0, 1])
def test_outputs_that_are_not_finite(profile: str, value: float, head: int) -> None:
    random, sizes = np.random.default_rng(0), list(CONFIG.feature_sizes().values())
    heads = [[torch.from_numpy(random.standard_normal((3, 9 * n, *s), np.float32)) for s in sizes] for n in (6, 4)]
    scales, sides = torch.ones(3), (CpuProcessing(CONFIG), GpuProcessing(CONFIG, "cpu"))
    for side in sides:
        assert len(side.detections(*heads, scales, PROFILES[profile])) == 3  # negative control
    for level in heads[head]:
        level[2] = value
    for side in sides:
        with pytest.raises(NonFiniteOutputError, match="image 3: the network returned NaN or infinity"):
            side.detections(*heads, scales, PROFILES[profile])


def test_arrays_share_the_memory_of_tensors() -> None:
    tensor = torch.zeros(3)
    as_array(tensor)[1] = 5
    assert tensor.tolist() == [0, 5, 0]
    assert as_array(tensor.requires_grad_()).tolist() == [0, 5, 0]
