"""Small COCO folders and models for the tests of detection and evaluation."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from converter.conversion import convert_checkpoint, prepare
from converter.locate import open_checkpoint
from converter.plan.copies import ViewName
from effdet_torch.data.sources import DataSource
from effdet_torch.network.model import EfficientDet
from effdet_torch.processes import ALONE, Processes
from effdet_torch.terminal.bar import Progress
from support.sources import small_config
from verify.detections import run
from verify.detections.run import CocoSettings, Evaluation

THREE = ("person", "car", "bus")
SIZES = ((48, 64), (64, 40), (30, 30), (80, 100))  # height, width


def result(image_id: int, category_id: int, bbox: Iterable[float], score: float) -> dict[str, Any]:
    return {"image_id": image_id, "category_id": category_id, "bbox": list(bbox), "score": score}


def annotation(number: int, image_id: int, category_id: int, bbox: Iterable[float]) -> dict[str, Any]:
    x, y, width, height = bbox
    box = {"bbox": [x, y, width, height], "area": width * height, "iscrowd": 0}
    return {"id": number, "image_id": image_id, "category_id": category_id, **box}


def write_coco(root: Path, ids: Iterable[int] = (7, 3, 12, 5), split: str = "val2017") -> Path:
    """Write images of noise and an annotation file with one object each, of category 1 or 2."""
    folder = root / ("test2017" if split == "testdev" else split)
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    images = []
    for image_id, (height, width) in zip(ids, SIZES, strict=False):
        name = f"{image_id:012d}.jpg"
        Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8)).save(folder / name)
        images.append({"id": image_id, "file_name": name, "height": height, "width": width})
    boxes = [annotation(n, x["id"], 1 + n % 2, (2, 3, 20, 15)) for n, x in enumerate(images, start=1)]
    dataset: dict[str, Any] = {"images": images}
    if split != "testdev":
        dataset |= {"annotations": boxes, "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}]}
    path = annotation_file(root, split)
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(dataset))
    return root


def annotation_file(root: Path, split: str = "val2017") -> Path:
    name = "image_info_test-dev2017.json" if split == "testdev" else f"instances_{split}.json"
    return root / "annotations" / name


def change_annotations(root: Path, **values: Any) -> None:
    """Replace parts of the annotation file."""
    path = annotation_file(root)
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def small_model(seed: int = 0, **overrides: Any) -> EfficientDet:
    """A network that counts as trained: its detections are arbitrary, repeatable, and differ between images."""
    torch.manual_seed(seed)
    model = EfficientDet(small_config(**{"image_size": (64, 64)} | overrides))
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():  # with its initial statistics the network would give the same for every image
        model.train()(torch.randn(4, 3, *model.config.image_size))
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.bias.fill_(1e-6)
    return model.eval()


def write_model(path: Path, seed: int = 0, **overrides: Any) -> Path:
    """Write a small untrained model, as effdet-convert writes one."""
    model = small_model(seed, **overrides)
    metadata = {"config": model.config.to_dict(), "source": {"name": "mine"}, "view": {"name": "ema"}, "assumed": {}}
    torch.save({"state_dict": model.state_dict(), "metadata": metadata}, path)
    return path


def convert_trained(shared: Path, path: Path, view: ViewName = "ema") -> Path:
    """Convert the trained checkpoint beside the project."""
    with open_checkpoint(shared / "trained_d0_256") as source:
        convert_checkpoint(prepare(source, weights=view), path)
    return path


def evaluate_coco(
    path: Path,
    source: Path | DataSource,
    settings: CocoSettings,
    out: Path | None = None,
    processes: Processes = ALONE,
    progress: Progress | None = None,
) -> Evaluation | None:
    """Read, prepare and evaluate in one step; a path is COCO's folder."""
    source = DataSource(coco=source) if isinstance(source, Path) else source
    prepared = run.prepare(path, run.read_images(source, settings), settings, processes)
    return run.evaluate(prepared, out, processes, progress)


def write_three_classes(shared: Path, root: Path) -> None:
    """Write the persons, cars and buses of 50 images, which are trained and validated on."""
    (root / "annotations").mkdir(parents=True)
    data = json.loads((shared / "coco50" / "annotations" / "instances_val2017.json").read_text())
    data["categories"] = [row for row in data["categories"] if row["name"] in THREE]
    kept = {row["id"] for row in data["categories"]}
    data["annotations"] = [row for row in data["annotations"] if row["category_id"] in kept]
    for split in ("train2017", "val2017"):
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(data))
        (root / split).symlink_to(shared / "coco50" / "val2017")
