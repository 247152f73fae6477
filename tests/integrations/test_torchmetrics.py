"""torchmetrics measures what pycocotools measures, on detections in torchvision's form."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from effdet_torch.integrations.torchvision_detector import TorchvisionDetector
from support.guests import run_sections

pytestmark = [pytest.mark.guest, pytest.mark.filterwarnings("default")]


def annotated(shared: Path, folder: Path) -> tuple[list[int], list[torch.Tensor], list[dict[str, torch.Tensor]]]:
    """Return ids, images and targets of the photos."""
    rows = json.loads((shared / "coco50" / "annotations" / "instances_val2017.json").read_text())["annotations"]
    files = sorted((folder / "photos").iterdir())
    images = [torch.from_numpy(np.array(Image.open(file).convert("RGB"))).permute(2, 0, 1) for file in files]
    targets = []
    for file in files:
        own = [row for row in rows if row["image_id"] == int(file.stem)]
        xywh = torch.tensor([row["bbox"] for row in own], dtype=torch.float64)
        targets.append(
            {
                "boxes": torch.cat([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], dim=1),
                "labels": torch.tensor([row["category_id"] for row in own]),
                "iscrowd": torch.tensor([row["iscrowd"] for row in own]),
                "area": torch.tensor([row["area"] for row in own]),
            }
        )
    return [int(file.stem) for file in files], images, targets


def by_pycocotools(shared: Path, ids: list[int], found: list[dict[str, torch.Tensor]]) -> float:
    """Return the AP of detections."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    truth = COCO(str(shared / "coco50" / "annotations" / "instances_val2017.json"))
    rows: list[dict[str, Any]] = []
    for number, one in zip(ids, found, strict=True):
        for box, label, score in zip(one["boxes"].tolist(), one["labels"], one["scores"], strict=True):
            bbox = [box[0], box[1], box[2] - box[0], box[3] - box[1]]
            rows.append({"image_id": number, "category_id": int(label), "bbox": bbox, "score": float(score)})
    evaluation = COCOeval(truth, truth.loadRes(rows), "bbox")
    evaluation.params.imgIds = ids
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return float(evaluation.stats[0])


def test_ap_is_that_of_pycocotools(shared: Path, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from torchmetrics.detection import MeanAveragePrecision

    ids, images, targets = annotated(shared, place)
    names = run_sections("torchvision's contract", "torchmetrics", images=images, targets=targets)
    assert isinstance(names["detector"], TorchvisionDetector)
    detector = names["as_torchvision"](names["load_model"]("d0.pth"), score_threshold=0, profile="official-eval")
    found = detector(images)
    expected = by_pycocotools(shared, ids, found)
    assert 0.5 < expected < 1
    assert float(names["metric"].compute()["map"]) == pytest.approx(expected, abs=1e-6)
    assert f"{expected:.3f}" in capsys.readouterr().out
    shifted = MeanAveragePrecision()  # negative control: labels from 0
    shifted.update([{**one, "labels": one["labels"] - 1} for one in found], targets)
    assert float(shifted.compute()["map"]) < expected / 2
