"""Whole-process time and memory of a layer-by-layer verification in float32, including the import of TensorFlow.

    python -m benchmarks.verification.layers

A seeded checkpoint is written, converted and verified: cumulative and isolated, every layer.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from benchmarks.conversion.script import measure

# Variant, side of the image in pixels, bounds in seconds and MB on two cores.
CASES = (("d0", 512, 30, 4096), ("d7x", 256, 150, None))


def main() -> None:
    """Measure and print a table."""
    command = str(Path(sys.executable).parent / "effdet-verify")
    print(f"{'verification':<16}{'seconds':>9}{'allowed':>9}{'peak MB':>9}{'allowed':>9}")
    for variant, side, seconds, peak_mb in CASES:
        with tempfile.TemporaryDirectory() as folder:
            options = ["--image-size", str(side), "--dtype", "float32", "--report-dir", folder]
            run = measure([command, "--demo", variant, *options])
        case = f"{variant} at {side}"
        print(f"{case:<16}{run.seconds:>9.1f}{seconds:>9}{run.peak_mb:>9.0f}{peak_mb or '-':>9}")


if __name__ == "__main__":
    main()
