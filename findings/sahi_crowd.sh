#!/usr/bin/env bash
# SAHI reads a COCO file and forgets which annotations are crowds: the sliced data set has them as ordinary objects.
#
# Expected: slice_coco cuts pictures and annotations into tiles, and Coco.from_coco_dict_or_path followed by .json gives
#   the annotations back: an annotation with iscrowd 1 keeps it, an area that the file states is kept.
# Seen (sahi 0.12.8, pycocotools 2.0.11; one picture of 200x200 with an object and a crowd, as COCO writes them):
#                              in the file    after .json    after slice_coco in one tile
#   iscrowd of the crowd            1              0              0
#   area of the object            312.5           637            637
#   id of the picture              42              1              1
#   AP50 of a detector that finds the object and three members of the crowd: 1.000 by the file, .126 by SAHI's.
#   The log warns that the crowd's run lengths are "skipped"; its box stays. Written with a polygon, the crowd becomes an
#   object without any warning.
# Why, as far as this script shows it: iscrowd is an argument of CocoAnnotation, but the readers do not pass it on. The
#   area, which COCO takes from the outline, is computed again, here from the box, and cut to a whole number.
# Why it matters: small objects are what tiles are made for, and crowds are many small objects. Trained on the tiles, a
#   model learns the box around a group as one object; evaluated on them, it is punished for every member that it finds.
#   COCO's split into small, medium and large goes by the area, which is another one now. Results of full pictures,
#   evaluated by the new file, belong to other picture ids.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
venv=${FINDINGS_VENV:-$work/venv}
"${PYTHON:-python3}" -m venv "$venv"
"$venv/bin/pip" install --quiet --disable-pip-version-check \
    sahi==0.12.8 pycocotools==2.0.11 opencv-python-headless==5.0.0.93 numpy==2.4.6 pillow==13.0.0
cd "$work"
cat >program.py <<'PROGRAM'
import contextlib
import copy
import io
import json
import sys
from importlib.metadata import version
from pathlib import Path

from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from sahi.slicing import slice_coco
from sahi.utils.coco import Coco

SIDE = 200
MEMBERS = [[100, 100, 20, 20], [130, 110, 20, 20], [150, 150, 20, 20]]
failed = False


def check(statement, holds):
    global failed
    failed |= not holds
    print("   ", "as stated:" if holds else "CHANGED:  ", statement)


def annotation(identity, box, area, crowd, segmentation):
    fields = {"bbox": box, "area": area, "iscrowd": crowd, "segmentation": segmentation}
    return {"id": identity, "image_id": 42, "category_id": 7, **fields}


def rectangle(x, y, width, height):
    return [[x, y, x + width, y, x + width, y + height, x, y + height]]


CROWD_BOX = [100.0, 100.0, 80.0, 80.0]
runs, filled = [], 0  # the crowd's pixels, column by column
for column in range(100, 180):
    runs += [column * SIDE + 100 - filled, 80]
    filled = column * SIDE + 180
runs.append(SIDE * SIDE - filled)
FILE = {
    "images": [{"id": 42, "file_name": "picture.png", "width": SIDE, "height": SIDE}],
    "categories": [{"id": 7, "name": "person"}],
    "annotations": [
        annotation(1, [10.0, 20.0, 25.5, 25.0], 312.5, 0, []),
        annotation(2, CROWD_BOX, 6400.0, 1, {"counts": runs, "size": [SIDE, SIDE]}),
    ],
}


def sliced(content):
    Path("file.json").write_text(json.dumps(content))
    result, _ = slice_coco("file.json", ".", "sliced", output_dir="tiles", slice_height=SIDE, slice_width=SIDE)
    return result


def average_precision(content):
    """Return AP50 of a detector that finds the object and three members of the crowd."""
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = copy.deepcopy(content)
        coco.createIndex()
        fields = {"image_id": content["images"][0]["id"], "category_id": 7}
        boxes = [(box, 0.9) for box in MEMBERS] + [([10.0, 20.0, 25.5, 25.0], 0.8)]
        results = coco.loadRes([{**fields, "bbox": box, "score": score} for box, score in boxes])
        evaluation = COCOeval(coco, results, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats[1]


Image.new("RGB", (SIDE, SIDE)).save("picture.png")
print(f"sahi {version('sahi')}, pycocotools {version('pycocotools')}")
polygons = copy.deepcopy(FILE)
polygons["annotations"][1]["segmentation"] = rectangle(*CROWD_BOX)
read = Coco.from_coco_dict_or_path(copy.deepcopy(FILE), image_dir=".").json
for name, content in (("read", read), ("sliced", sliced(FILE)), ("sliced, crowd as a polygon", sliced(polygons))):
    thing, crowd = content["annotations"]
    print(f"  {name}")
    box, mark, image = crowd["bbox"], crowd["iscrowd"], crowd["image_id"]
    check(f"the crowd keeps its box {box}, with iscrowd {mark}", box == CROWD_BOX and mark == 0)
    check(f"the area of the object is {thing['area']}, the id of the picture {image}", (thing["area"], image) == (637, 1))
    before, after = average_precision(FILE), average_precision(content)
    check(f"AP50 {before:.3f} by the file, {after:.3f} by SAHI's", abs(before - 1) < 1e-6 and abs(after - 0.126) < 0.002)
sys.exit(failed)
PROGRAM
"$venv/bin/python" -W ignore program.py
