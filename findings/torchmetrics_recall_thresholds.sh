#!/usr/bin/env bash
# torchmetrics rounds the recall thresholds of AP to float32, and so misses, or takes, others than pycocotools.
#
# Expected: MeanAveragePrecision with the backend pycocotools gives the AP that pycocotools gives.
# Seen (torchmetrics 1.9.0, pycocotools 2.0.11; one class, K of 10 objects found perfectly, and nothing else):
#               pycocotools    torchmetrics    with rec_thresholds=np.linspace(0, 1, 101).tolist()
#   K = 5          .50495         .50495          .50495
#   K = 6          .60396         .59406          .60396
#   K = 7          .69307         .70297          .69307
#   There is no warning.
# Why: its default thresholds are torch.linspace(0, 1, 101).tolist(), float32 numbers. A recall of 6 / 10 does not reach the
#   one for .6, which is .6000000238; it reaches that of pycocotools, a float64 number. For .7 it is the other way round:
#   pycocotools has .7000000000000001.
# Why it matters: the AP of a class with 10, 20 or 50 objects differs by up to .01, and two tools disagree about the same
#   detections. Pass rec_thresholds to get the numbers that are published.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
venv=${FINDINGS_VENV:-$work/venv}
"${PYTHON:-python3}" -m venv "$venv"
"$venv/bin/pip" install --quiet --disable-pip-version-check \
  torchmetrics==1.9.0 pycocotools==2.0.11 numpy==2.4.6 torch==2.14.1 torchvision==0.29.1
"$venv/bin/python" - <<'PROGRAM'
import contextlib
import io
import sys
from importlib.metadata import version

import numpy as np
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torchmetrics.detection import MeanAveragePrecision

OBJECTS = 10
failed = False


def check(statement, holds):
    global failed
    failed |= not holds
    print("   ", "as stated:" if holds else "CHANGED:  ", statement)


def boxes(count):
    """Return boxes (xmin, ymin, xmax, ymax) that do not touch each other."""
    return torch.tensor([[100.0 * i, 0, 100.0 * i + 50, 50] for i in range(count)])


def by_pycocotools(found):
    """Return the AP where `found` of the objects are found."""
    rows = [{"id": i + 1, "image_id": 1, "category_id": 1, "bbox": [100 * i, 0, 50, 50]} for i in range(OBJECTS)]
    truth = COCO()
    truth.dataset = {
        "info": {},
        "categories": [{"id": 1, "name": "thing"}],
        "images": [{"id": 1, "width": 1000, "height": 50}],
        "annotations": [{**row, "area": 2500, "iscrowd": 0} for row in rows],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes([{**row, "score": 0.9} for row in rows[:found]]), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return float(evaluation.stats[0])


def by_torchmetrics(found, **settings):
    """Return the same of torchmetrics."""
    metric = MeanAveragePrecision(**settings)
    metric.update(
        [{"boxes": boxes(found), "scores": torch.full((found,), 0.9), "labels": torch.ones(found, dtype=torch.int64)}],
        [{"boxes": boxes(OBJECTS), "labels": torch.ones(OBJECTS, dtype=torch.int64)}],
    )
    return float(metric.compute()["map"])


print(f"torchmetrics {version('torchmetrics')}, pycocotools {version('pycocotools')}")
exact = {"rec_thresholds": np.linspace(0, 1, 101).tolist()}
for found, expected, seen in ((5, 0.50495, 0.50495), (6, 0.60396, 0.59406), (7, 0.69307, 0.70297)):
    values = by_pycocotools(found), by_torchmetrics(found), by_torchmetrics(found, **exact)
    print(f"  {found} of {OBJECTS}: pycocotools {values[0]:.5f}, torchmetrics {values[1]:.5f}, exact {values[2]:.5f}")
    check("pycocotools, and torchmetrics with exact thresholds", max(abs(v - expected) for v in values[::2]) < 1e-5)
    check("torchmetrics by default", abs(values[1] - seen) < 1e-5)
sys.exit(failed)
PROGRAM
