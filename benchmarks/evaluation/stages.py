"""Time an evaluation stage by stage, so that the bottleneck is visible.

    python -m benchmarks.evaluation.stages MODEL COCO [--images 32] [--batch 8] [--device cpu] [--threads 2]

Every stage runs alone on the same images: images per second is what it would allow if the others took no time. Workers
multiply the first one.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.utils.benchmark import timer

from effdet_torch.data.sources import read_split
from effdet_torch.inference.images import read_image
from effdet_torch.inference.predict import Predictor
from effdet_torch.processing.profiles import PROFILES


def main() -> None:
    """Read the options, run the benchmark, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("coco", type=Path)
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    predictor = Predictor(options.model, profile="official-eval", device=options.device, score_threshold=0)
    paths = [image.path for image in read_split(options.coco).first(options.images).images]
    height, width = predictor.config.image_size
    print(f"{predictor.config.name}, {height} x {width}, {len(paths)} images, {predictor.device}")
    for name, seconds in measure(predictor, paths, options.batch, options.workers).items():
        print(f"{name:32s} {len(paths) / seconds:9.1f} images/s {1e3 * seconds / len(paths):9.2f} ms/image")


def measure(predictor: Predictor, paths: list[Path], batch: int, workers: int) -> dict[str, float]:
    """Return seconds per stage for all images."""
    step = 1 if predictor.device_type == "cpu" else batch  # as the predictor does
    seconds: dict[str, float] = {}
    predictor.engine(torch.zeros(step, 3, *predictor.config.image_size))  # the first run chooses and loads kernels
    for start in range(0, len(paths), step):
        with timed(seconds, "decode"):
            decoded = [read_image(path) for path in paths[start : start + step]]
        with timed(seconds, "preprocess"):
            pixels, image_scales = predictor.prepare(decoded)
        with timed(seconds, "network"):
            outputs = predictor.engine(pixels)
        for profile in PROFILES:
            with timed(seconds, f"postprocess, {profile}"):
                predictor.detections(outputs[0], outputs[1], image_scales, profile)
    with timed(seconds, f"whole, {workers} workers"):
        for _ in predictor.stream(paths, batch, workers=workers, apply_exif=False):
            pass
    return seconds


@contextmanager
def timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    """Add the time that the block takes, on a GPU too: the timer waits for it."""
    start = timer()
    yield
    seconds[name] = seconds.get(name, 0.0) + timer() - start


if __name__ == "__main__":
    main()
