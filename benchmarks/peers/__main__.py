"""Compare this package with `effdet` and LibreYOLO: the same weights, two cores, in turns.

    python -m benchmarks.peers --libreyolo-python ENV/bin/python               # about 10 minutes on two quiet cores
    python -m benchmarks.peers --libreyolo-python ENV/bin/python --images 4 --rounds 2 --starts 1     # a quick look
    python -m benchmarks.peers --only effdet                                   # without LibreYOLO

A trained d0 is converted with its redundant biases, which both peers need, and every contestant loads that file in a
process of its own, in its own interpreter: `pip install effdet==0.4.1` (the extra `bench`), `pip install
libreyolo==1.6.0`. LibreYOLO's d0 has a fixed size of 512; for another `--size` its two tables of sizes are changed.
All make detections alike: the best 5000 pairs of anchor and class, hard NMS of every class at IoU 0.5, at most 100
boxes that score at least 0.001.

Speed     medians of rounds in which the contestants take turns: an image file to detections, and each stage alone.
Start-up  import and load, in fresh processes that take turns.
AP        of `--coco`; then each stage of ours is exchanged for the peer's, one at a time.

Prints Markdown, writes it into docs/comparison.md with `--write` and JSON with `--json`, and exits with 1 if a bound is
missed.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.peers.tables import PEERS, STAGES, bounds, markdown
from benchmarks.project import SHARED, write_table
from benchmarks.turns import PAUSE_SECONDS
from converter.conversion import convert_checkpoint, prepare
from converter.locate import open_checkpoint
from effdet_torch.data.dataset import DataImage, DataSet
from effdet_torch.data.sources import read_split
from effdet_torch.export.export import export_model
from effdet_torch.metrics.coco import CocoResult, coco_metrics
from effdet_torch.network.checkpoint import load_model

WORKER = Path(__file__).with_name("worker.py")
WARM_UP = 3  # turns that are not counted: kernels are chosen, and what TorchScript compiles settles


class Row(NamedTuple):
    """A contestant: the class in the worker, the file that it loads, whose package it is."""

    worker: str
    file: str
    package: str


ROWS: Mapping[str, Row] = {
    "effdet, eager": Row("effdet", "bare.pth", "effdet"),
    "LibreYOLO, eager": Row("libreyolo", "bare.pth", "libreyolo"),
    "LibreYOLO, its ONNX": Row("libreyolo-onnx", "bare.pth", "libreyolo"),
    "ours, eager": Row("ours", "model.pth", "ours"),
    "ours, ONNX": Row("ours", "model.onnx", "ours"),
    "ours, OpenVINO": Row("ours", "model.xml", "ours"),
}


def main() -> int:
    """Read the options, measure, print, and return 1 if a bound is missed."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.peers",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--checkpoint", type=Path, default=SHARED / "trained_d0_256", help="a d0 with 90 classes")
    parser.add_argument("--coco", type=Path, default=SHARED / "coco50")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--images", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--starts", type=int, default=7)
    parser.add_argument("--only", nargs="+", choices=PEERS, default=list(PEERS), metavar="PEER")
    for peer in PEERS:
        parser.add_argument(f"--{peer}-python", default=sys.executable, metavar="PYTHON")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/comparison.md")
    options = parser.parse_args()
    pythons = {"ours": sys.executable} | {peer: getattr(options, f"{peer}_python") for peer in options.only}
    with tempfile.TemporaryDirectory() as folder:
        write_models(options.checkpoint, Path(folder), options.size)
        results = measure(Bench(Path(folder), pythons, options.size), read_split(options.coco), options)
    table = "\n".join(markdown(results)) + "\n"
    print(table)
    if options.write:
        write_table("comparison.md", "peers", table)
    if options.json is not None:
        options.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    return 0 if all(bound["met"] for bound in results["bounds"]) else 1


def write_models(checkpoint: Path, folder: Path, size: int) -> None:
    """Convert the checkpoint for the peers and for us, and export ours."""
    for name, for_peers in (("bare.pth", True), ("model.pth", False)):
        with open_checkpoint(checkpoint) as source:
            convert_checkpoint(prepare(source, keep_redundant_bias=for_peers), folder / name, bare=for_peers)
    model = load_model(folder / "model.pth")
    for name in ("model.onnx", "model.xml"):
        export_model(model, folder / name, image_size=(size, size))


class Process:
    """A worker: requests and answers."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - a pipe could fill up
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, text=True, env=environment
        )
        self.versions: dict[str, str] = self._answer()["versions"]

    def __call__(self, do: str, **values: Any) -> Any:
        """Ask for what a method of `worker.Worker` returns."""
        assert self._process.stdin is not None
        print(json.dumps({"do": do, **values}), file=self._process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        if line := self._process.stdout.readline():
            return json.loads(line)
        self._process.communicate()
        self._log.seek(0)
        raise SystemExit(f"{self._process.args!r} ended:\n{self._log.read()}")

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()  # closes its input, and it ends
        self._log.close()


class Bench:
    """Where the contestants' files and interpreters are."""

    def __init__(self, folder: Path, pythons: Mapping[str, str], size: int) -> None:
        self.folder, self.pythons, self.size = folder, pythons, size
        self.rows = {name: row for name, row in ROWS.items() if row.package in pythons}
        self.environment = os.environ | {
            "OMP_NUM_THREADS": "2",
            "PYTHONDONTWRITEBYTECODE": "",
        }  # a start with compiled modules

    def start(self, name: str) -> Process:
        """Start a contestant, and return when its model is loaded."""
        row = self.rows[name]
        words = (self.pythons[row.package], WORKER, row.worker, self.folder / row.file, self.size)
        return Process([*map(str, words)], self.environment)

    def peers(self) -> Iterator[str]:
        """Yield the eager row of every peer that takes part."""
        yield from (name for package, name in PEERS.items() if package in self.pythons)


def measure(bench: Bench, split: DataSet, options: argparse.Namespace) -> dict[str, Any]:
    """Return everything that is measured, as it is written to JSON."""
    images, before = split.images[: options.images], os.getloadavg()[0]
    with ExitStack() as stack:
        workers = {name: stack.enter_context(bench.start(name)) for name in bench.rows}
        speed = race(workers, images, options.rounds)
        found = {name: ap(split, images, worker("files", images=paths(images))) for name, worker in workers.items()}
        exchanged = {peer: exchange(bench, workers, peer, split, images) for peer in bench.peers()}
        versions = {name: worker.versions for name, worker in workers.items()}
    results = {
        "setting": {"size": options.size, "images": len(images), "rounds": options.rounds, "cores": os.cpu_count()},
        "versions": versions,
        "milliseconds": speed,
        "start_seconds": starts(bench, options.starts),
        "ap": found,
        "exchanged": exchanged,
        "load": [before, os.getloadavg()[0]],
    }
    return results | {"bounds": list(bounds(results))}


def paths(images: Sequence[DataImage]) -> list[str]:
    """Return the files as workers take them."""
    return [str(image.path) for image in images]


def race(workers: Mapping[str, Process], images: Sequence[DataImage], rounds: int) -> dict[str, dict[str, float]]:
    """Return {contestant: {stage or "file": median milliseconds}}; every round takes the next image."""
    seconds: dict[str, dict[str, list[float]]] = {name: {} for name in workers}
    for stage in ("file", *STAGES):
        for number in range(-WARM_UP, rounds):
            image = images[number % len(images)]
            for name, worker in workers.items():
                time.sleep(PAUSE_SECONDS)
                took = worker("timed", stage=stage, image=str(image.path), size=image.size)
                if number >= 0:
                    seconds[name].setdefault(stage, []).append(took)
    return {
        name: {stage: 1e3 * statistics.median(took) for stage, took in stages.items()}
        for name, stages in seconds.items()
    }


def starts(bench: Bench, rounds: int) -> dict[str, float]:
    """Return {contestant: median seconds from the start of its process to a loaded model}, without their own ONNX."""
    seconds: dict[str, list[float]] = {name: [] for name in bench.rows if name != "LibreYOLO, its ONNX"}
    for number in range(rounds + 1):
        for name, taken in seconds.items():
            begin = time.perf_counter()
            with bench.start(name):
                if number:  # the first turn fills caches
                    taken.append(time.perf_counter() - begin)
    return {name: statistics.median(taken) for name, taken in seconds.items()}


def ap(split: DataSet, images: Sequence[DataImage], found: Sequence[Sequence[Sequence[float]]]) -> float:
    """Return the AP of detections, 0 to 100."""
    results: list[CocoResult] = [
        {
            "image_id": image.image_id,
            "category_id": int(category),
            "bbox": [xmin, ymin, xmax - xmin, ymax - ymin],
            "score": score,
        }
        for image, rows in zip(images, found, strict=True)
        for xmin, ymin, xmax, ymax, score, category in rows
    ]
    return 100 * coco_metrics(split.dataset, results, [image.image_id for image in images])["AP"]


def exchange(
    bench: Bench, workers: Mapping[str, Process], peer: str, split: DataSet, images: Sequence[DataImage]
) -> dict[str, float]:
    """Return {what is the peer's and not ours: AP}."""
    out, sizes = bench.folder, [image.size for image in images]
    both = {"ours": workers["ours, eager"], "peer": workers[peer]}
    for who, worker in both.items():
        worker("save_pixels", images=paths(images), out=str(out / f"{who}_pixels.npz"))
        worker("save_anchors", out=str(out / f"{who}_anchors.npy"))

    def outcome(pixels: str, network: str, anchors: str, nms: str) -> float:
        files = {"outputs": str(out / "outputs.npz"), "pixels": str(out / f"{pixels}_pixels.npz")}
        both[network]("save_outputs", pixels=files["pixels"], out=files["outputs"])
        table = None if nms == anchors else str(out / f"{anchors}_anchors.npy")
        return ap(split, images, both[nms]("found", **files, sizes=sizes, anchors=table))

    rows = {
        "nothing": ("ours", "ours", "ours", "ours"),
        "pixels": ("peer", "ours", "ours", "ours"),
        "network": ("ours", "peer", "ours", "ours"),
        "NMS": ("ours", "ours", "ours", "peer"),
        "NMS and anchors": ("ours", "ours", "peer", "peer"),
        "everything": ("peer", "peer", "peer", "peer"),
    }
    return {what: outcome(*who) for what, who in rows.items()}


if __name__ == "__main__":
    sys.exit(main())
