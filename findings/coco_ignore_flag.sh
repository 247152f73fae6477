#!/usr/bin/env bash
# COCO evaluation counts an annotation with "ignore": 1 as an object, although its code reads the flag.
#
# Expected: a detection on an annotation with "ignore": 1 is neither right nor wrong, and missing the annotation costs
#   nothing. pycocotools reads the flag of every annotation, and LVIS' evaluation, made from it, follows it.
# Seen (pycocotools 2.0.11, hotcoco 1.3.0, faster-coco-eval 1.8.0, lvis 0.5.3; AP50; 4 pictures with one object to find,
#   which is found, and one region marked as below, in which nothing is found):
#                        pycocotools    hotcoco    faster-coco-eval    lvis
#   no mark                  .505         .505          .505           .505
#   "ignore": 1              .505         .505          .505          1.000
#   "iscrowd": 1            1.000        1.000         1.000           .505
#   There is no warning.
# Why, as far as this script shows it: pycocotools overwrites the flag with iscrowd before it counts (the value it leaves in
#   the annotation is 0), and the two others reproduce its numbers. Only iscrowd is followed; lvis knows only "ignore".
# Why it matters: converters from VOC ("difficult"), CrowdHuman and VisDrone write "ignore": 1 with "iscrowd": 0, and
#   training code that leaves these out exists. The evaluation then demands them: AP is too low, the more such regions
#   there are. Set iscrowd as well, but a detection in a crowd is matched by its own area, and may match it many times.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
venv=${FINDINGS_VENV:-$work/venv}
"${PYTHON:-python3}" -m venv "$venv"
"$venv/bin/pip" install --quiet --disable-pip-version-check \
    pycocotools==2.0.11 hotcoco==1.3.0 faster-coco-eval==1.8.0 lvis==0.5.3 opencv-python-headless==5.0.0.93 numpy==2.4.6
cd "$work"
cat >program.py <<'PROGRAM'
import contextlib
import copy
import io
import json
import sys
from importlib.metadata import version
from pathlib import Path

import faster_coco_eval
import hotcoco
import numpy as np
from lvis import LVIS, LVISEval, LVISResults
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

np.float = float  # lvis asks for the name that NumPy 2 has no more
PICTURES = range(1, 5)
failed = False


def check(statement, holds):
    global failed
    failed |= not holds
    print("   ", "as stated:" if holds else "CHANGED:  ", statement)


def annotation(identity, image, box, **mark):
    x, y, width, height = box
    outline = [[x, y, x + width, y, x + width, y + height, x, y + height]]
    fields = {"bbox": box, "area": float(width * height), "iscrowd": 0, "segmentation": outline}
    return {"id": identity, "image_id": image, "category_id": 1, **fields, **mark}


def content(**mark):
    """Return the content of a file with an object and a marked region in each picture."""
    lvis = {"not_exhaustive_category_ids": [], "neg_category_ids": []}
    images = [{"id": image, "width": 200, "height": 200, "coco_url": f"{image}.jpg", **lvis} for image in PICTURES]
    annotations = []
    for image in PICTURES:
        annotations.append(annotation(2 * image - 1, image, [10, 10, 40, 40]))
        annotations.append(annotation(2 * image, image, [80, 80, 60, 60], **mark))
    categories = [{"id": 1, "name": "person", "frequency": "f"}]
    return {"images": images, "annotations": annotations, "categories": categories}


RESULTS = [{"image_id": image, "category_id": 1, "bbox": [10, 10, 40, 40], "score": 0.9} for image in PICTURES]


def by_lvis():
    evaluation = LVISEval(LVIS("file.json"), LVISResults(LVIS("file.json"), copy.deepcopy(RESULTS)), "bbox")
    evaluation.run()
    return evaluation.results["AP50"]


def by_coco(files, evaluator, load):
    coco = files("file.json")
    evaluation = evaluator(coco, getattr(coco, load)(copy.deepcopy(RESULTS)), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return evaluation.stats[1], coco


EVALUATIONS = {
    "pycocotools": lambda: by_coco(COCO, COCOeval, "loadRes")[0],
    "hotcoco": lambda: by_coco(hotcoco.COCO, hotcoco.COCOeval, "load_res")[0],
    "faster-coco-eval": lambda: by_coco(faster_coco_eval.COCO, faster_coco_eval.COCOeval_faster, "loadRes")[0],
    "lvis": by_lvis,
}
print(", ".join(f"{package} {version(package)}" for package in EVALUATIONS))
for mark, expected in (({}, [0.505] * 4), ({"ignore": 1}, [0.505] * 3 + [1]), ({"iscrowd": 1}, [1] * 3 + [0.505])):
    Path("file.json").write_text(json.dumps(content(**mark)))
    for (package, evaluate), goal in zip(EVALUATIONS.items(), expected, strict=True):
        with contextlib.redirect_stdout(io.StringIO()):
            ap = float(evaluate())
        check(f"{mark or 'no mark'}, {package}: AP50 {ap:.3f}", abs(ap - goal) < 6e-4)
Path("file.json").write_text(json.dumps(content(ignore=1)))
with contextlib.redirect_stdout(io.StringIO()):
    _, coco = by_coco(COCO, COCOeval, "loadRes")
check("pycocotools leaves ignore = 0 behind", not any(coco.anns[2 * image]["ignore"] for image in PICTURES))
sys.exit(failed)
PROGRAM
"$venv/bin/python" -W ignore program.py
