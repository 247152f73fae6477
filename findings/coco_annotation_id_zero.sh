#!/usr/bin/env bash
# pycocotools counts an object whose annotation id is 0 as missed, however well it was detected.
#
# Expected: annotation ids only need to be unique integers, so ids from 0 give the same AP as ids from 1.
# Seen (pycocotools 2.0.11; each picture holds one object, detected perfectly):
#               AP (COCO), ids from 1    ids from 0    AR, ids from 0
#   1 picture          1.000               0.000           0.000
#   10 pictures        1.000               0.811           0.900
#   100 pictures       1.000               0.980           0.990
#   There is no warning, and no error.
# Why, as far as this script shows it: only the object with id 0 is lost: the sum of matched objects is one short.
#   The evaluation marks a detection with the id of the object it matched, and 0 stands for "no match".
# Why it matters: code that numbers annotations with enumerate() starts at 0. On a small set the AP of a correct model
#   looks wrong; on a large one it is a little too low and nobody notices. Number annotations from 1.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
venv=${FINDINGS_VENV:-$work/venv}
"${PYTHON:-python3}" -m venv "$venv"
"$venv/bin/pip" install --quiet --disable-pip-version-check pycocotools==2.0.11 numpy==2.4.6
"$venv/bin/python" - <<'PROGRAM'
import contextlib
import io
import sys
from importlib.metadata import version

from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

failed = False


def check(statement, holds):
    global failed
    failed |= not holds
    print("   ", "as stated:" if holds else "CHANGED:  ", statement)


def evaluate(pictures, first_id):
    """Return AP, AR and the matched annotation ids at IoU 0.5 for perfect detections, one in each picture."""
    box = [10, 10, 50, 50]
    truth = COCO()
    truth.dataset = {
        "info": {},
        "categories": [{"id": 1, "name": "thing"}],
        "images": [{"id": i + 1, "width": 100, "height": 100} for i in range(pictures)],
        "annotations": [
            {"id": first_id + i, "image_id": i + 1, "category_id": 1, "bbox": box, "area": 2500, "iscrowd": 0}
            for i in range(pictures)
        ],
    }
    detections = [{"image_id": i + 1, "category_id": 1, "bbox": box, "score": 0.9 - 0.001 * i} for i in range(pictures)]
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(detections), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    everything = evaluation.evalImgs[:pictures]  # the area range "all" comes first
    matches = [int(match) for picture in everything for match in picture["dtMatches"][0]]
    return evaluation.stats[0], evaluation.stats[8], matches


print(f"pycocotools {version('pycocotools')}")
expected = {1: (0.0, 0.0), 10: (0.811, 0.9), 100: (0.980, 0.99)}
for pictures, (ap_seen, ar_seen) in expected.items():
    ap_one, ar_one, matches_one = evaluate(pictures, first_id=1)
    ap_zero, ar_zero, matches_zero = evaluate(pictures, first_id=0)
    print(f"  {pictures} object(s): AP {ap_one:.3f} with ids from 1, {ap_zero:.3f} with ids from 0 (AR {ar_zero:.3f})")
    check("ids from 1 give 1", min(ap_one, ar_one) > 0.9999)
    check("ids from 0 lose one object", abs(ap_zero - ap_seen) < 5e-4 and abs(ar_zero - ar_seen) < 5e-4)
    check("every detection is marked with the id of its object", matches_zero == list(range(pictures)))
    check("and only id 0 differs", matches_one == [match + 1 for match in matches_zero])
sys.exit(failed)
PROGRAM
