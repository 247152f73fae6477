"""Whole-process time and memory of the conversion, compared with a plain TensorFlow script on the same checkpoints.

    python -m benchmarks.conversion.script [--repeats 5] [--variants d0 d7x]

Seeded checkpoints in the official layout (raw and EMA copies) are written to a temporary folder. Every command runs in
its own process. The commands take turns, so that a busy machine slows all of them alike; ratios are of the medians.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

from benchmarks.processes import cost_of, own_command
from verify.seeded import write_seeded_checkpoint

TARGETS = {"d0 .safetensors": 1 / 10, "d0 .pth": 1 / 2}


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--variants", nargs="+", default=["d0", "d7x"])
    options = parser.parse_args()
    print(f"{'command':<28}{'seconds':>9}{'ratio':>8}{'peak MB':>9}{'output MB':>11}")
    with tempfile.TemporaryDirectory() as folder:
        for variant in options.variants:
            compare(variant, Path(folder), options.repeats)


def compare(variant: str, folder: Path, repeats: int) -> None:
    """Print one block of the table."""
    prefix = write_seeded_checkpoint(variant, folder / variant)
    tool = [own_command("effdet-convert"), str(prefix)]
    plain = [sys.executable, "-m", "benchmarks.conversion.plain_script", str(prefix)]
    commands = {
        f"{variant} plain script": [*plain, str(folder / "plain.pth")],
        f"{variant} .pth": [*tool, str(folder / f"{variant}.pth")],
        f"{variant} .safetensors": [*tool, str(folder / f"{variant}.safetensors")],
    }
    rounds = [{name: cost_of(command) for name, command in commands.items()} for _ in range(repeats)]
    medians = {name: statistics.median(costs[name].seconds for costs in rounds) for name in commands}
    plain_seconds = medians[f"{variant} plain script"]
    for name, seconds in medians.items():
        peak = max(costs[name].peak_mb for costs in rounds)
        size = Path(commands[name][-1]).stat().st_size / 2**20
        target = f"  target {TARGETS[name]:.2f}" if name in TARGETS else ""
        print(f"{name:<28}{seconds:>9.2f}{seconds / plain_seconds:>8.3f}{peak:>9.0f}{size:>11.0f}{target}")


if __name__ == "__main__":
    main()
