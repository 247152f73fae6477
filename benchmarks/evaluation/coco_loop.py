"""CPU time of an evaluation on COCO images: this package against a loop around the `effdet` package, in turns.

    python -m benchmarks.evaluation.coco_loop MODEL COCO [--images 50] [--rounds 5] [--backend onnx]

Both read the JPEG files, detect in one image after another with the same weights, and compute COCO's numbers: `effdet`
with its hard NMS and pycocotools, ours as `effdet-verify --coco` does. The CPU time of all threads is compared.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.effdet_model import effdet_images, effdet_model
from benchmarks.turns import in_turns, times_as_fast
from effdet_torch.data.sources import read_split
from effdet_torch.inference.predict import Predictor
from effdet_torch.metrics.coco import coco_metrics
from effdet_torch.metrics.evaluators import AUTO
from effdet_torch.network.checkpoint import load_model


def main() -> None:
    """Read the options, run the benchmark, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("coco", type=Path)
    parser.add_argument("--images", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--backend", help="another runtime beside PyTorch, for example onnx")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    split = read_split(options.coco).first(options.images)
    paths, numbers = [image.path for image in split.images], [image.image_id for image in split.images]
    dataset = json.loads((options.coco / "annotations" / "instances_val2017.json").read_text())
    make = partial(Predictor, options.model, profile="official-eval", score_threshold=0, device="cpu")
    contestants: dict[str, Callable[[], float]] = {
        "effdet": partial(effdet_loop, effdet_model(load_model(options.model)), paths, numbers, dataset),
        "ours": partial(our_loop, make(), paths, numbers, dataset),
    }
    if options.backend:
        contestants[f"ours, {options.backend}"] = partial(
            our_loop, make(backend=options.backend), paths, numbers, dataset
        )
    found = dict[str, float]()

    def keeping(name: str) -> Callable[[], None]:
        return lambda: found.update({name: contestants[name]()})

    seconds = in_turns({name: keeping(name) for name in contestants}, options.rounds, time.process_time)
    for name, values in seconds.items():
        median, ratio = statistics.median(values), times_as_fast(seconds["effdet"], values)
        print(f"{name:16} {median:7.2f} s of CPU time {ratio:6.2f} x   AP {found[name]:.4f}", flush=True)


def effdet_loop(network: Any, paths: Sequence[Path], numbers: Sequence[int], dataset: Any) -> float:
    """Detect with `effdet`, evaluate with pycocotools, and return AP."""
    found, cpu = list[dict[str, Any]](), torch.device("cpu")
    with torch.inference_mode():
        for path, number in zip(paths, numbers, strict=True):
            with Image.open(path) as image:
                rows = effdet_images(network, [np.asarray(image.convert("RGB"))], cpu, None)[0].tolist()
            found += [
                {"image_id": number, "category_id": int(kind), "bbox": [x0, y0, x1 - x0, y1 - y0], "score": score}
                for x0, y0, x1, y1, score, kind in rows
            ]
    with contextlib.redirect_stdout(io.StringIO()):
        return coco_metrics(dataset, found, list(numbers))["AP"]


def our_loop(predictor: Predictor, paths: Sequence[Path], numbers: Sequence[int], dataset: Any) -> float:
    """Detect and evaluate with this package, and return AP."""
    found = list[Any]()
    for number, result in zip(numbers, predictor.stream(list(paths), apply_exif=False), strict=True):
        assert isinstance(result, tuple), result
        found += result[1].to_coco(number)
    return coco_metrics(dataset, found, list(numbers), evaluator=AUTO)["AP"]


if __name__ == "__main__":
    main()
