"""CPU time and peak memory of converting every kind of source, beside the TF1 checkpoint of the same network.

    python -m benchmarks.conversion.sources [--repeats 7] [--only TFLite]

The sources are written from a seeded checkpoint, by TensorFlow, or by this project where that is possible; some are
official results beside the project, and left out where these are missing. Commands take turns; CPU time is user and
system time of the whole process, the minimum of all runs; memory is the maximum.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from benchmarks.conversion import source_files as files
from benchmarks.conversion.source_files import Network
from benchmarks.processes import Cost, cost_of, own_command

MOST_TIMES, MOST_MB = 3.0, 200
BASELINE = "TF1 checkpoint"


class Row(NamedTuple):
    """One source: the network whose TF1 checkpoint it is compared with, its name, and what writes it."""

    network: str
    name: str
    write: Callable[[Network], Path]


ROWS = (
    Row("d0", BASELINE, lambda network: network.checkpoint),
    Row("d0", "archive of it (.tar.gz)", files.archive),
    Row("d0", "TF1 SavedModel", files.tf1_saved_model),
    Row("d0", "TF2 object checkpoint", files.object_checkpoint),
    Row("d0", "TF2 SavedModel", files.tf2_saved_model),
    Row("d0", "Keras .h5", lambda network: network.converted("model.h5")),
    Row("d0", "frozen graph (.pb)", files.frozen_graph),
    Row("d0", "PyTorch .pth", lambda network: network.converted("model.pth")),
    Row("d0", "PyTorch .safetensors", lambda network: network.converted("model.safetensors")),
    Row("d0", "Object Detection API d0", lambda _: files.shared("tfod/d0")),
    Row("d0", "with a segmentation head", files.with_segmentation),
    Row("d1", BASELINE, lambda network: network.checkpoint),
    Row("d1", "Object Detection API d1", lambda _: files.shared("tfod/d1")),
    Row("lite0", BASELINE, lambda network: network.checkpoint),
    Row("lite0", "TF Hub, training on a module", files.hub_training),
    Row("lite0", "TF Hub, feature vector", files.hub_module),
    Row("lite0", "TFLite, float16", lambda _: files.shared("sources/tflite/lite0_tflite_fp16.tflite")),
    Row("lite0", "TFLite, int8", lambda _: files.shared("sources/tflite/lite0_tflite_int8.tflite")),
)


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--only", default="", help="Part of the names of the sources.")
    options = parser.parse_args()
    rows = [row for row in ROWS if row.name == BASELINE or options.only in row.name]
    chosen = {row.network for row in rows if row.name != BASELINE}
    print(f"{'source':<38}{'CPU s':>7}{'times':>7}{'<= 3':>6}{'peak MB':>9}{'<= 200':>8}")
    for name in dict.fromkeys(row.network for row in ROWS if row.network in chosen):
        with tempfile.TemporaryDirectory() as folder:
            compare([row for row in rows if row.network == name], Path(folder), options.repeats)


def compare(rows: Iterable[Row], folder: Path, repeats: int) -> None:
    """Print the lines of one network."""
    sources: dict[str, Path] = {}
    network: Network | None = None
    for row in rows:
        network = network or Network(row.network, folder)
        try:
            sources[row.name] = row.write(network)
        except FileNotFoundError as error:
            print(f"{row.network}, {row.name}: left out: {error}")
    rounds = [{name: measure(path, folder / "out.pth") for name, path in sources.items()} for _ in range(repeats)]
    costs: dict[str, tuple[float, float]] = {}
    for name in sources:
        runs = [measured[name] for measured in rounds]
        if failed := [run for run in runs if isinstance(run, str)]:
            print(f"{name}: not converted: {failed[0]}")
        else:
            done = [run for run in runs if isinstance(run, Cost)]
            costs[name] = min(run.cpu_seconds for run in done), max(run.peak_mb for run in done)
    for line in lines(costs, network.variant if network else ""):
        print(line)


def measure(source: Path, out: Path) -> Cost | str:
    """Convert a source in a process of its own; return its error if that fails."""
    try:
        return cost_of([own_command("effdet-convert"), str(source), str(out), "--weights", "raw"])
    except subprocess.CalledProcessError as error:
        return str(error.stderr).strip().partition("\n")[0][:200]


def lines(costs: dict[str, tuple[float, float]], variant: str) -> Iterator[str]:
    """Yield a line for every source, {name: (CPU seconds, peak MB)}, with what it passes or misses."""
    for name, (seconds, peak) in costs.items():
        times = seconds / costs[BASELINE][0]
        verdicts = ["pass" if is_met else "MISS" for is_met in (times <= MOST_TIMES, peak <= MOST_MB)]
        yield f"{f'{variant}, {name}':<38}{seconds:>7.2f}{times:>7.2f}{verdicts[0]:>6}{peak:>9.0f}{verdicts[1]:>8}"


if __name__ == "__main__":
    main()
