"""The benchmark for GPUs in its smallest form, on the CPU; its outputs are compared before they are timed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SMALLEST = [
    "--device",
    "cpu",
    "--variants",
    "d0",
    "--size",
    "128",
    "--batches",
    "1",
    "--seconds",
    "0.01",
    "--rounds",
    "1",
]


@pytest.mark.slow
def test_the_smallest_form(tmp_path: Path) -> None:
    pytest.importorskip("effdet", reason="the effdet package is not installed: pip install -e '.[bench]'")
    out = tmp_path / "gpu.json"
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.inference.gpu", *SMALLEST, "--out", str(out)]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = json.loads(out.read_text())["rows"]
    assert {row["scope"] for row in rows} == {"network", "detections", "images"}
    assert {row["name"] for row in rows if row["scope"] == "network"} >= {"effdet float32", "float32", "float16"}
    assert all(row["ms"] > 0 and row["ratio"] > 0 for row in rows)
