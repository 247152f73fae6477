"""Time the evaluators on made-up detections, and the reading of a results file: no model, no image.

    python -m benchmarks.evaluation.evaluators [--images 5000] [--rows 450000] [--repeats 3]

Both evaluators get the same annotations and detections (80 categories, 100 detections an image, crowds, equal scores)
as the lists of a COCO file, and their arrays must be equal bit for bit. The file is read as Python's own json and a
check of every entry would, and by `read_results`. All take turns; the table shows medians.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.turns import in_turns
from effdet_torch.metrics.coco import BoxEvaluation, CocoResult, evaluate_boxes
from effdet_torch.metrics.evaluators import EVALUATORS, RECORD
from verify.detections.results_file import read_results

CATEGORIES = 80
DETECTIONS = 100  # an image
OBJECTS = 7  # an image, as in val2017
IMAGE_PX = 600
FIELDS = {"image_id", "category_id", "bbox", "score"}
Dataset = dict[str, Any]


def main() -> None:
    """Read the options, measure, print two tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--rows", type=int, default=450_000)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    show(f"evaluation of {options.images} images", time_evaluators(options.images, options.repeats))
    show(f"reading {options.rows} detections", time_reading(options.rows, options.repeats))


def show(title: str, seconds: dict[str, float]) -> None:
    """Print seconds, and how many times faster than the first."""
    print(f"{title:44s} {'seconds':>9s} {'faster':>9s}")
    first = next(iter(seconds.values()))
    for name, value in seconds.items():
        print(f"{name:44s} {value:9.2f} {first / value:8.1f}x")


def time_evaluators(images: int, repeats: int) -> dict[str, float]:
    """Return the median seconds of every evaluator, pycocotools first."""
    dataset, results = synthetic(images)
    image_ids = [image["id"] for image in dataset["images"]]
    found: dict[str, BoxEvaluation] = {}

    def run(name: str) -> Callable[[], None]:
        return lambda: found.update({name: evaluate_boxes(dataset, results, image_ids, name)})

    seconds = medians({name: run(name) for name in EVALUATORS}, repeats)
    record = found[RECORD].curves
    for name, evaluation in found.items():
        same = all(a.tobytes() == b.tobytes() for a, b in zip(record, evaluation.curves, strict=True))
        assert same, f"{name} differs from {RECORD}"
    return {str(found[name].evaluator): value for name, value in seconds.items()}


def time_reading(rows: int, repeats: int) -> dict[str, float]:
    """Return the median seconds of both ways to read a results file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "results.json"
        path.write_text(json.dumps(synthetic(-(-rows // DETECTIONS))[1][:rows]))
        assert read_results(path) == read_entry_by_entry(path)
        ways: dict[str, Callable[[], object]] = {
            "json, every entry checked": lambda: read_entry_by_entry(path),
            "read_results": lambda: read_results(path),
        }
        return medians(ways, repeats)


def medians(functions: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Return the median seconds of every function."""
    return {name: median(values) for name, values in in_turns(functions, repeats).items()}


def synthetic(images: int, seed: int = 0) -> tuple[Dataset, list[CocoResult]]:
    """Return annotations and detections; six of ten detections lie near an object, mostly of its category."""
    rng = np.random.default_rng(seed)
    count = images * OBJECTS
    of_image = np.sort(rng.integers(1, images + 1, count))
    sizes = np.exp(rng.uniform(2, 6, (count, 2)))
    boxes = np.concatenate((rng.uniform(0, IMAGE_PX, (count, 2)), sizes), axis=1)
    categories = rng.integers(1, CATEGORIES + 1, count)
    crowds = rng.random(count) < 0.02
    columns = zip(*(x.tolist() for x in (of_image, categories, boxes, sizes.prod(axis=1), crowds)), strict=True)
    annotations = [
        {"id": n, "image_id": image, "category_id": category, "bbox": box, "area": area, "iscrowd": int(crowd)}
        for n, (image, category, box, area, crowd) in enumerate(columns, start=1)
    ]
    dataset = {
        "images": [{"id": n, "width": IMAGE_PX, "height": IMAGE_PX} for n in range(1, images + 1)],
        "annotations": annotations,
        "categories": [{"id": n, "name": str(n)} for n in range(1, CATEGORIES + 1)],
    }
    return dataset, detections_near(rng, images, of_image, categories, boxes)


def detections_near(
    rng: np.random.Generator, images: int, of_image: Any, categories: Any, boxes: Any
) -> list[CocoResult]:
    """Return `DETECTIONS` for every image, best first; scores have three digits, so many are equal."""
    total = images * DETECTIONS
    image = np.repeat(np.arange(1, images + 1), DETECTIONS)
    first, last = np.searchsorted(of_image, image, "left"), np.searchsorted(of_image, image, "right")
    target = np.minimum(first + (rng.random(total) * (last - first)).astype(int), len(boxes) - 1)
    near = (rng.random(total) < 0.6) & (last > first)
    elsewhere = np.concatenate((rng.uniform(0, IMAGE_PX, (total, 2)), np.exp(rng.uniform(2, 6, (total, 2)))), axis=1)
    found = np.where(near[:, None], boxes[target] * rng.normal(1, 0.05, (total, 4)), elsewhere).astype(np.float32)
    known = near & (rng.random(total) < 0.8)
    category = np.where(known, categories[target], rng.integers(1, CATEGORIES + 1, total))
    score = -np.sort(-(rng.random((images, DETECTIONS)) ** 3).round(3), axis=1).ravel()
    rows = zip(*(x.tolist() for x in (image, category, found, score)), strict=True)
    return [{"image_id": i, "category_id": c, "bbox": b, "score": s} for i, c, b, s in rows]


def read_entry_by_entry(path: Path) -> list[CocoResult]:
    """Read a results file with Python's own json, and check every entry: what `read_results` did at first."""
    results: list[CocoResult] = json.loads(path.read_bytes())
    for result in results:
        assert isinstance(result, dict)
        assert result.keys() >= FIELDS
        assert isinstance(result["bbox"], list)
        assert len(result["bbox"]) == 4
        numbers = [*result["bbox"], result["score"]]
        assert all(isinstance(x, int | float) for x in numbers)
        assert all(isinstance(result[key], int) for key in ("image_id", "category_id"))
    return results


if __name__ == "__main__":
    main()
