"""Time a GPU, or for a try the CPU: this package against `effdet`, same weights, same images, one run.

    python -m benchmarks.inference.gpu [--out gpu.json]            # d0, d4 and d7; under 8 minutes on an H100
    python -m benchmarks.inference.gpu --device cpu --variants d0 --size 128 --batches 1 2 --seconds 0.1

No files are needed: the weights are random, with statistics that keep activations alive. Contestants run in turns, and
a row is the median of the rounds. Before anything is timed, network outputs are compared with those of our network in
float64, and detections with those that `effdet` makes from the same outputs.

    network       normalised images on the device -> logits and deltas there
    detections    network outputs on the device -> detections on the host
    images        uint8 images on the host -> detections on the host
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.benchmark import timer

import effdet_torch
from benchmarks.effdet_model import effdet_detections, effdet_images, effdet_model
from benchmarks.equality import enliven, max_over_rms, require_same
from benchmarks.turns import in_turns
from effdet_torch.engines.torch_engine import full_float32
from effdet_torch.inference.predict import Predictor
from effdet_torch.network.checkpoint import create_model

COMPARED = 2  # images of a batch whose outputs are compared
# How much larger than the rounding errors of `effdet` in float32 the errors may be; the first name that fits counts.
# Random weights amplify all of them, those of d7 a thousand times.
FACTORS = {"float32": 50.0, "bfloat16": 50 * 2.0**16, "float16": 50 * 2.0**13}
LARGEST_BATCH = {"d0": 128, "d4": 32, "d7": 8}  # what fits into 80 GB, and into the time


class Row(NamedTuple):
    """One contestant: median time per batch, images per second, and how many times `effdet`'s images per second."""

    variant: str
    scope: str
    batch: int
    name: str
    ms: float
    images_per_second: float
    ratio: float
    error: float | None


def main() -> None:
    """Read the options, run the benchmark, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variants", nargs="+", default=["d0", "d4", "d7"])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32, 128])
    parser.add_argument("--size", type=int, help="side of the images in pixels; default: the variant's")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--seconds", type=float, default=1.0, help="about how long a contestant runs in one row")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--limit", type=float, default=420.0, help="begin no further batch size after so many seconds")
    parser.add_argument("--compile", action="store_true", help="torch.compile as well, which takes minutes")
    parser.add_argument("--out", type=Path, help="write the rows as JSON")
    options = parser.parse_args()
    device, start, rows = torch.device(options.device), time.perf_counter(), list[Row]()
    name = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    print(f"{name}; torch {torch.__version__}, effdet-convert {effdet_torch.__version__}", flush=True)
    for variant in options.variants:
        bench = Bench(variant, options.size, device, (options.seconds, options.rounds), options.compile)
        for batch in options.batches:
            if batch > LARGEST_BATCH.get(variant, batch) or time.perf_counter() - start > options.limit:
                print(f"{variant} batch {batch}: left out", flush=True)
                continue
            for row in bench.rows(batch):
                rows.append(row)
                error = "" if row.error is None else f"  error {row.error:.0e}"
                print(
                    f"{row.variant:5} {row.scope:10} {row.batch:4} {row.name:28} {row.ms:9.2f} ms "
                    f"{row.images_per_second:8.1f} images/s {row.ratio:6.2f} x{error}",
                    flush=True,
                )
            print(f"{time.perf_counter() - start:.0f} s", flush=True)
        del bench
    if options.out is not None:
        content = {"device": name, "torch": torch.__version__, "rows": [row._asdict() for row in rows]}
        options.out.write_text(json.dumps(content, indent=1))


class Bench:
    """Both networks with the same weights, and everything that runs them."""

    def __init__(
        self, variant: str, side: int | None, device: torch.device, effort: tuple[float, int], compiled: bool
    ) -> None:
        torch.manual_seed(0)
        model = create_model(variant, image_size=side)
        enliven(model)
        self.variant, self.device, self.config = variant, device, model.config
        self.seconds, self.rounds = effort
        self.theirs = effdet_model(model).to(device)
        self.exact = copy.deepcopy(model).double().to(device)
        make = partial(Predictor, device=device, score_threshold=0.0, profile="hard")
        self.ours = {
            "eager float32": make(model, fused=False),
            "float32": make(model),
            "float16": make(model, precision="float16"),
            "bfloat16": make(model, precision="bfloat16"),
        }
        if compiled:
            self.ours["bfloat16, torch.compile"] = make(model, precision="bfloat16", compiled=True)

    def rows(self, batch: int) -> list[Row]:
        """Time one batch size in all scopes."""
        with torch.inference_mode(), full_float32(self.device):
            return [*self._network(batch), *self._detections(batch), *self._images(batch)]

    def _network(self, batch: int) -> list[Row]:
        pixels = torch.randn(batch, 3, *self.config.image_size, device=self.device)
        last = pixels.contiguous(memory_format=torch.channels_last)
        expected, errors = self.exact(pixels[:COMPARED].double()), dict[str, float]()
        contestants: dict[str, Callable[[], Any]] = {
            "effdet float32": lambda: self.theirs(pixels),
            "effdet AMP": lambda: self._mixed(pixels),
            "effdet AMP, channels_last": lambda: self._mixed(last),
        }
        errors["effdet float32"] = noise = max_over_rms(self.theirs(pixels), expected)
        if noise > 0.05:
            raise SystemExit(f"effdet computes another network: off by {noise:.1e} of rms")
        for name, predictor in self.ours.items():
            contestants[name] = partial(predictor.engine, pixels)
            errors[name] = max_over_rms(predictor.engine(pixels), expected)
            if not errors[name] <= noise * next(factor for dtype, factor in FACTORS.items() if dtype in name):
                raise SystemExit(f"{self.variant} batch {batch}: {name} is off by {errors[name]:.1e} of rms")
        return self._race("network", batch, contestants, errors)

    def _mixed(self, pixels: Tensor) -> Any:
        with torch.autocast(self.device.type, torch.float16 if self.device.type == "cuda" else torch.bfloat16):
            return self.theirs(pixels)

    def _detections(self, batch: int) -> list[Row]:
        outputs, scales = crowded(self.config, batch, self.device), torch.full((batch,), 1.25, device=self.device)
        theirs = effdet_detections(self.theirs, outputs, scales)
        ours = self.ours["float32"].detections(*outputs, scales)
        for image, found in zip(theirs, ours, strict=True):
            columns = found.boxes_xyxy, found.scores[:, None], found.category_ids[:, None]
            require_same(image, np.concatenate(columns, axis=1), f"{self.variant} batch {batch}")
        contestants: dict[str, Callable[[], Any]] = {
            "effdet": lambda: effdet_detections(self.theirs, outputs, scales),
        }
        for profile in ("hard", "official-eval", "official-eval-hard", "serving"):
            contestants[profile] = partial(self.ours["float32"].detections, *outputs, scales, profile)
        return self._race("detections", batch, contestants, {})

    def _images(self, batch: int) -> list[Row]:
        random = np.random.default_rng(0)
        images = [random.integers(0, 256, (480, 640, 3), dtype=np.uint8) for _ in range(batch)]
        contestants: dict[str, Callable[[], Any]] = {
            "effdet float32": lambda: effdet_images(self.theirs, images, self.device, None),
            "effdet AMP": lambda: effdet_images(self.theirs, images, self.device, torch.float16),
        }
        for name in ("float32", "float16"):
            contestants[name] = partial(self.ours[name], images, batch)
        return self._race("images", batch, contestants, {})

    def _race(
        self, scope: str, batch: int, contestants: Mapping[str, Callable[[], Any]], errors: Mapping[str, float]
    ) -> list[Row]:
        """Time contestants in turns; the first one is the measure of the others."""
        once = in_turns(contestants, 1, timer, warm_up=1)
        counts = {name: max(1, min(100, int(self.seconds / self.rounds / took))) for name, (took,) in once.items()}
        repeated = {name: partial(_repeat, run, counts[name]) for name, run in contestants.items()}
        seconds = in_turns(repeated, self.rounds, timer)  # which waits for a GPU
        medians = {name: statistics.median(values) / counts[name] for name, values in seconds.items()}
        first = next(iter(medians.values()))
        return [
            Row(self.variant, scope, batch, name, 1e3 * value, batch / value, first / value, errors.get(name))
            for name, value in medians.items()
        ]


def _repeat(run: Callable[[], Any], count: int) -> None:
    for _ in range(count):
        run()


def crowded(config: Any, batch: int, device: torch.device) -> tuple[list[Tensor], list[Tensor]]:
    """Return outputs of a network that sees something everywhere."""
    generator, outputs = torch.Generator(device).manual_seed(1), list[list[Tensor]]()
    for values, scale, offset in ((config.num_classes, 2.0, -5.0), (4, 0.5, 0.0)):
        channels = config.anchors_per_location * values
        shapes = [(batch, channels, *size) for size in config.feature_sizes().values()]
        outputs.append([torch.randn(s, generator=generator, device=device) * scale + offset for s in shapes])
    return outputs[0], outputs[1]


if __name__ == "__main__":
    main()
