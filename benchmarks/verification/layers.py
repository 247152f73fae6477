"""Whole-process time and memory of a layer-by-layer verification in float32, including the import of TensorFlow.

    python -m benchmarks.verification.layers

A seeded checkpoint is written, converted and verified: cumulative and isolated, every layer.
"""

from __future__ import annotations

import tempfile

from benchmarks.processes import cost_of, own_command

# Variant, side of the image in pixels, bounds in seconds and MB on two cores.
CASES = (("d0", 512, 30, 4096), ("d7x", 256, 150, None))


def main() -> None:
    """Measure and print a table."""
    command = own_command("effdet-verify")
    print(f"{'verification':<16}{'seconds':>9}{'allowed':>9}{'peak MB':>9}{'allowed':>9}")
    for variant, side, seconds, peak_mb in CASES:
        with tempfile.TemporaryDirectory() as folder:
            options = ["--image-size", str(side), "--dtype", "float32", "--report-dir", folder]
            run = cost_of([command, "--demo", variant, *options])
        case = f"{variant} at {side}"
        print(f"{case:<16}{run.seconds:>9.1f}{seconds:>9}{run.peak_mb:>9.0f}{peak_mb or '-':>9}")


if __name__ == "__main__":
    main()
