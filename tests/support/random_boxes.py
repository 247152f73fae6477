"""Random annotations and detections."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from support.coco_samples import annotation, result

AREAS = (0.0, 32.0**2, 96.0**2, 1e5**2)  # the limits of small, medium and large


class Case(NamedTuple):
    """What is evaluated."""

    dataset: dict[str, Any]
    results: list[dict[str, Any]]
    image_ids: list[int]


def random_case(seed: int) -> Case:
    """Images and classes with nothing in them, crowds, equal scores, equal boxes, more than 100 detections of a class.

    Args:
        seed: every third one evaluates a part of the images only.
    """
    rng = np.random.default_rng(seed)
    ids = [int(x) for x in rng.choice(10**9, int(rng.integers(1, 10)), replace=False)]
    categories = [int(x) for x in rng.choice(np.arange(1, 91), int(rng.integers(1, 6)), replace=False)]
    digits = int(rng.integers(1, 9))  # one digit: nearly all scores are equal
    grid = float(rng.choice([1e-3, 16.0]))  # coarse: many boxes are equal

    def box() -> list[float]:
        sizes = np.exp(rng.uniform(1, 6)) * rng.uniform(0.3, 1.5, 2)
        return [float(x) for x in np.round(np.append(rng.uniform(0, 500, 2), sizes) / grid) * grid]

    annotations, results = [], []
    for image in ids:
        objects = []
        for _ in range(int(rng.integers(0, 8)) * int(rng.random() < 0.8)):
            values = annotation(len(annotations) + len(objects) + 1, image, int(rng.choice(categories)), box())
            area = float(rng.choice([values["area"], values["area"] * rng.random(), rng.choice(AREAS)]))
            objects.append(values | {"area": area, "iscrowd": int(rng.random() < 0.25)})
        annotations += objects
        for _ in range(int(rng.choice([0, 2, 20, 150]))):
            category, xywh = int(rng.choice(categories)), box()
            if objects and rng.random() < 0.7:
                target = objects[int(rng.integers(len(objects)))]
                category = category if rng.random() < 0.1 else target["category_id"]
                xywh = [float(x) for x in np.array(target["bbox"]) * rng.choice([1.0, rng.normal(1, 0.03)], 4)]
            results.append(result(image, category, xywh, round(float(rng.random()), digits)))
    dataset = {
        "images": [{"id": image, "width": 640, "height": 480} for image in ids],
        "annotations": annotations,
        "categories": [{"id": category, "name": str(category)} for category in categories],
    }
    return Case(dataset, results, ids if seed % 3 else ids[: len(ids) // 2 + 1])
