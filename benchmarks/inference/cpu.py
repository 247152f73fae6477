"""Time inference on the CPU: this package's engines against the `effdet` package, same weights, one process, in turns.

    python -m benchmarks.inference.cpu                          # all rows; about 15 minutes on two quiet cores
    python -m benchmarks.inference.cpu --rows d0 --batches 1 --engines eager onnx
    python -m benchmarks.inference.cpu --rows d0 --model trained.pth --image photo.jpg
    python -m benchmarks.inference.cpu --memory                 # peak memory instead, a process for every contestant

Weights are random, with statistics that keep activations alive. Before anything is timed, outputs are compared with
those of our eager network in float64, and detections with those that `effdet` makes of the same outputs. The table
shows medians, and as "x" the median of the ratios of the rounds; the load stands below each contest.

    network   normalised images -> logits and deltas
    file      one JPEG file of 480 x 640 -> boxes, hard NMS on both sides
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from benchmarks.processes import print_own_peak, print_peaks
from benchmarks.turns import print_race, race

ENGINES = ("eager", "onnx", "openvino")


class Subject(NamedTuple):
    """A network of the table: variant and (height, width)."""

    variant: str
    size: tuple[int, int]


SUBJECTS: Mapping[str, Subject] = {
    "d0": Subject("d0", (512, 512)),
    "d0-384x640": Subject("d0", (384, 640)),
    "lite0": Subject("lite0", (320, 320)),
    "d4": Subject("d4", (1024, 1024)),
    "d7x-256": Subject("d7x", (256, 256)),
}


def main() -> None:
    """Read the options, run the benchmark, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="+", choices=SUBJECTS, default=list(SUBJECTS))
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8], help="8 only for d0")
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=list(ENGINES))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--model", type=Path, help="converted file whose weights take the place of random ones")
    parser.add_argument("--image", type=Path, help="photograph instead of a synthetic image of 480 x 640")
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--one", nargs=2, metavar=("FOLDER", "CONTESTANT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one is not None:
        return one_process(Path(options.one[0]), options.one[1])
    with tempfile.TemporaryDirectory() as folder:
        for name in options.rows:
            subject = SUBJECTS[name]
            written = write_subject(subject, Path(folder, name), options.engines, options.model)
            if options.image is not None:
                shutil.copy(options.image, Path(folder, name, "image.jpg"))
            if options.memory:
                command = ("benchmarks.inference.cpu", "--one", str(Path(folder, name)))
                print_peaks(name, ["effdet", *options.engines], *command)
                continue
            bench = Bench(subject, written, options.threads, options.rounds)
            for batch in options.batches if name == "d0" else [1]:
                print_race(f"{name} network, batch {batch}", bench.network(batch))
            print_race(f"{name} file, batch 1", bench.file())
    return None


def write_subject(subject: Subject, folder: Path, engines: list[str], weights: Path | None = None) -> dict[str, Path]:
    """Write a model with random or given weights, its exports, and an image; return {engine: file}."""
    import torch

    from benchmarks.equality import enliven
    from effdet_torch.export.export import export_model
    from effdet_torch.network.checkpoint import create_model, load_model
    from effdet_torch.network.saving import save_model

    folder.mkdir()
    torch.manual_seed(0)
    model = create_model(subject.variant, image_size=subject.size)
    if weights is None:
        enliven(model)
    else:
        model.load_state_dict(load_model(weights).state_dict())
        model.eval()
    files = {"eager": folder / "model.pth"}
    save_model(model, files["eager"])
    for engine, suffix in (("onnx", ".onnx"), ("openvino", ".xml")):
        if engine in engines:
            files[engine] = folder / f"model{suffix}"
            export_model(model, files[engine])
    random = np.random.default_rng(0)
    blocks = random.integers(0, 256, (48, 64, 3), dtype=np.uint8)  # blocks, because noise is no photograph to a decoder
    Image.fromarray(blocks).resize((640, 480), Image.Resampling.BICUBIC).save(folder / "image.jpg", quality=92)
    return {engine: files[engine] for engine in files if engine in engines}


class Bench:
    """`effdet` and the engines of one subject."""

    def __init__(self, subject: Subject, files: Mapping[str, Path], threads: int, rounds: int) -> None:
        import torch

        from benchmarks.effdet_model import effdet_model
        from effdet_torch.inference.predict import Predictor
        from effdet_torch.network.checkpoint import load_model

        torch.set_num_threads(threads)
        self.subject, self.rounds = subject, rounds
        self.image = next(iter(files.values())).parent / "image.jpg"
        self.predictors = {name: Predictor(path, profile="hard", score_threshold=0.0) for name, path in files.items()}
        model = load_model(self.image.parent / "model.pth")
        self.theirs, self.exact = effdet_model(model), model.double()

    def network(self, batch: int) -> Iterator[tuple[str, float, float, str]]:
        """Time the networks alone."""
        import torch

        from benchmarks.equality import max_over_rms

        pixels = torch.randn(batch, 3, *self.subject.size, generator=torch.Generator().manual_seed(0))
        with torch.inference_mode():
            expected = self.exact(pixels.double())
            noise = max_over_rms(self.theirs(pixels), expected)
            errors, contestants = {"effdet": noise}, dict[str, Callable[[], Any]]()
            contestants["effdet"] = lambda: self.theirs(pixels)
            for name, predictor in self.predictors.items():
                errors[name] = max_over_rms(predictor.engine(pixels.numpy()), expected)
                if not errors[name] <= 30 * noise:
                    raise SystemExit(f"{name} is off by {errors[name]:.1e} of rms, effdet by {noise:.1e}")
                contestants[name] = partial(predictor.engine, pixels.numpy())
            for row in race(contestants, self.rounds):
                yield *row, f"error {errors[row[0]]:.0e} of rms"

    def file(self) -> Iterator[tuple[str, float, float, str]]:
        """Time one JPEG file to boxes."""
        import torch

        from benchmarks.effdet_model import effdet_images
        from benchmarks.equality import require_same

        cpu = torch.device("cpu")

        def theirs() -> Any:
            with Image.open(self.image) as image:
                return effdet_images(self.theirs, [np.asarray(image.convert("RGB"))], cpu, None)

        with torch.inference_mode():
            contestants: dict[str, Callable[[], Any]] = {"effdet": theirs}
            contestants |= {name: partial(predictor, self.image) for name, predictor in self.predictors.items()}
            eager = next(iter(self.predictors.values()))
            outputs, scale = eager.engine(eager.prepare([self.image])[0]), eager.prepare([self.image])[1]
            require_same_as_effdet(
                self.theirs, eager.detections(outputs[0], outputs[1], scale)[0], outputs, scale, require_same
            )
            for row in race(contestants, self.rounds):
                yield *row, f"{len(contestants[row[0]]()[0])} boxes"


def require_same_as_effdet(theirs: Any, ours: Any, outputs: Any, scale: Any, compare: Callable[..., None]) -> None:
    """Compare what both make of the same outputs of the network."""
    import torch

    from benchmarks.effdet_model import effdet_detections

    levels = tuple([torch.as_tensor(np.asarray(level)) for level in head] for head in outputs)
    found = effdet_detections(theirs, levels, torch.as_tensor(scale))[0]
    compare(found, np.concatenate((ours.boxes_xyxy, ours.scores[:, None], ours.category_ids[:, None]), axis=1), "file")


def one_process(folder: Path, contestant: str) -> None:
    """Detect in one image twice, and print this process's peak memory in MB."""
    if contestant == "effdet":
        import torch

        from benchmarks.effdet_model import effdet_images, effdet_model
        from effdet_torch.network.checkpoint import load_model

        theirs = effdet_model(load_model(folder / "model.pth"))
        with torch.inference_mode(), Image.open(folder / "image.jpg") as image:
            for _ in range(2):
                effdet_images(theirs, [np.asarray(image.convert("RGB"))], torch.device("cpu"), None)
    else:
        from effdet_torch.inference.predict import Predictor

        files = {"eager": "model.pth", "onnx": "model.onnx", "openvino": "model.xml"}
        predictor = Predictor(folder / files[contestant], profile="hard", score_threshold=0.0)
        for _ in range(2):
            predictor(folder / "image.jpg")
    print_own_peak()


if __name__ == "__main__":
    main()
