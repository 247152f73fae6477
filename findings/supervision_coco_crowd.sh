#!/usr/bin/env bash
# supervision exports an object in two visible parts as a crowd: COCO evaluation then no longer counts it.
#
# Expected: DetectionDataset.as_coco writes every object as an object. Its documentation says that masks with holes or
#   separate parts are stored as run lengths "for efficient storage"; nothing suggests another meaning.
# Seen (supervision 0.31.2, pycocotools 2.0.11; 20 pictures, each with one whole object and one that a post cuts in two):
#                                            whole objects    objects in two parts
#   iscrowd in the exported file                   0                 1
#   a detector that finds only whole objects: AP .505 by the true file (40 objects), 1.000 by the exported one (20)
#   The exported boxes are a pixel short, too: the box of a mask of 20x20 pixels is 19x19, whose IoU with the true one is
#   .9025. A detector that gives the true boxes has AP50:95 .9 for them. Boxes that the caller passes are kept.
# Why, as far as this script shows it: the COCO format ties run lengths to crowds in its own files, and supervision sets
#   iscrowd where it writes run lengths, unless the data has an "iscrowd" field. pycocotools ignores what lies in a crowd.
#   mask_to_xyxy returns the last pixel of a mask as its upper corner, not the edge behind it.
# Why it matters: occluded objects are the hard ones. A test set that went through as_coco does not contain them, AP
#   rises, and trainers that leave crowds out do not learn them. Set detections.data["iscrowd"] to zeros before the
#   export, and make boxes with mask_to_xyxy(masks, coordinate_convention="exclusive").
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
venv=${FINDINGS_VENV:-$work/venv}
"${PYTHON:-python3}" -m venv "$venv"
"$venv/bin/pip" install --quiet --disable-pip-version-check \
    supervision==0.31.2 pycocotools==2.0.11 opencv-python-headless==5.0.0.93 numpy==2.4.6 pillow==13.0.0
cd "$work"
cat >program.py <<'PROGRAM'
import contextlib
import io
import json
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import supervision as sv
from PIL import Image
from pycocotools import mask as rle
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

SIDE, PICTURES = 120, 20
failed = False


def check(statement, holds):
    global failed
    failed |= not holds
    print("   ", "as stated:" if holds else "CHANGED:  ", statement)


def masks_of(picture):
    """Return (2, H, W): a square object, and one that a vertical post cuts in two."""
    masks = np.zeros((2, SIDE, SIDE), bool)
    masks[0, picture : picture + 20, 5:25] = True
    masks[1, picture : picture + 30, 50:90] = True
    masks[1, :, 66:72] = False
    return masks


def true_boxes(masks):
    """Return x, y, width, height, from pycocotools."""
    return [rle.toBbox(rle.encode(np.asfortranarray(mask.astype(np.uint8)))).tolist() for mask in masks]


def export(boxes_of, **data):
    """Export all pictures with supervision; return the COCO file's content."""
    annotations = {
        f"{picture}.png": sv.Detections(
            xyxy=boxes_of(masks_of(picture)), mask=masks_of(picture), class_id=np.zeros(2, int), data=data
        )
        for picture in range(PICTURES)
    }
    dataset = sv.DetectionDataset(classes=["thing"], images=list(annotations), annotations=annotations)
    dataset.as_coco(annotations_path="exported.json")
    return json.loads(Path("exported.json").read_text())


def exclusive(masks):
    return sv.mask_to_xyxy(masks, coordinate_convention="exclusive")


def average_precision(content, found):
    """Return AP50:95 of a detector that gives exactly the true boxes of the objects in `found`."""
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = json.loads(json.dumps(content))
        coco.createIndex()
        results = [
            {"image_id": image["id"], "category_id": 1, "bbox": true_boxes(masks_of(picture))[index], "score": 0.9}
            for picture, image in enumerate(content["images"])
            for index in found
        ]
        evaluation = COCOeval(coco, coco.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    counted = sum(int((entry["gtIgnore"] == 0).sum()) for entry in evaluation.evalImgs[:PICTURES] if entry)
    return evaluation.stats[0], counted


for picture in range(PICTURES):
    Image.new("RGB", (SIDE, SIDE)).save(f"{picture}.png")
print(f"supervision {sv.__version__}, pycocotools {version('pycocotools')}")
exported = export(exclusive)
crowds = [annotation["iscrowd"] for annotation in exported["annotations"]]
check("whole objects are no crowds, objects in two parts are", crowds == [0, 1] * PICTURES)
true = json.loads(json.dumps(exported))
for annotation in true["annotations"]:
    annotation["iscrowd"] = 0
for name, content, expected, objects in (("true", true, 0.505, 40), ("exported", exported, 1.0, 20)):
    ap, counted = average_precision(content, found=[0])
    text = f"only whole objects found, {name} file: AP {ap:.3f}, {counted} objects"
    check(text, abs(ap - expected) < 0.002 and counted == objects)
told = export(exclusive, iscrowd=np.zeros(2, int))
check("with iscrowd in the data, none is a crowd", not any(annotation["iscrowd"] for annotation in told["annotations"]))

exported = export(sv.mask_to_xyxy, iscrowd=np.zeros(2, int))
first = exported["annotations"][0]
box, area = first["bbox"], first["area"]
check(f"the box of 20x20 pixels is {box}, the area {area}", box[2:] == [19, 19] and area == 400)
exported["annotations"] = exported["annotations"][::2]
ap, _ = average_precision(exported, found=[0])
check(f"AP of the true boxes of these objects is {ap:.3f}", abs(ap - 0.9) < 0.005)
sys.exit(failed)
PROGRAM
"$venv/bin/python" -W ignore program.py
