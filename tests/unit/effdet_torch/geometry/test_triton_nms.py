"""The GPU's kernel in Triton's interpreter, which runs it on the CPU, against `nms.py`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="triton is not installed: PyTorch brings it along on Linux with CUDA")

# In a process of its own: the interpreter is chosen when triton is imported, and triton ends a process that has
# imported TensorFlow before.
COMPARE = """
import sys
import torch
from effdet_torch.geometry import triton_nms
from effdet_torch.geometry.nms import non_max_suppression

generator = torch.Generator().manual_seed(0)
triton_nms.CANDIDATES_AT_ONCE = int(sys.argv[1])
for sigma in (0.0, 0.25):
    for count in (1, 7, 64, 300):
        boxes = torch.rand(2, count, 4, generator=generator) * 100
        boxes[:, ::7] = boxes[:, :1].clone()  # equal boxes
        boxes[:, 3::50] = float("inf")
        boxes[:, 4::50, 2] = boxes[:, 4::50, 0]  # empty ones
        scores = (torch.rand(2, count, generator=generator) * 20).round() / 20  # equal scores
        scores[:, 5::60] = float("nan")
        classes = torch.randint(0, 3, (2, count), generator=generator)
        for kinds in (classes, None):
            options = (20, 0.5, 0.1 if sigma else -1e20, sigma)
            expected = non_max_suppression(boxes, scores, kinds, *options)
            found = triton_nms.non_max_suppression(boxes, scores, kinds, *options)
            assert torch.equal(found[0], expected[0]), (sigma, count)
            assert torch.equal(found[2], expected[2]), (sigma, count)
            assert torch.allclose(found[1], expected[1], rtol=0, atol=1e-6), (sigma, count)
            other = triton_nms.non_max_suppression(boxes, scores, kinds, 20, 0.2, options[2], 2 * sigma)
            assert count < 64 or not torch.allclose(other[1], found[1], rtol=0, atol=1e-6), "settings must show"
"""


@pytest.mark.parametrize("candidates_at_once", ["64", pytest.param("512", marks=pytest.mark.slow)])
def test_the_kernel_selects_what_torch_selects(tmp_path: Path, candidates_at_once: str) -> None:
    command = [sys.executable, "-c", COMPARE, candidates_at_once]
    environment = {"TRITON_INTERPRET": "1", "PATH": "", "HOME": str(tmp_path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
