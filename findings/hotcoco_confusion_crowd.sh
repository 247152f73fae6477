#!/usr/bin/env bash
# hotcoco's confusion matrix counts detections on a crowd as false; its own AP, like pycocotools', ignores them.
#
# Expected: an annotation with iscrowd = 1 stands for many objects. COCO's evaluation neither requires them to be found
#   nor holds detections on them against a model, so a confusion matrix of the same evaluator should not either.
# Seen (hotcoco 1.3.0): one picture with one object, which is found, and a crowd of the same class with 5 detections in it:
#   AP                                          1.000  (precision and recall are perfect)
#   confusion_matrix(), row "background"        5      (false detections)
#   the same without the detections on it       0
#   The crowd itself is not counted as missed. The docstring of confusion_matrix() does not mention iscrowd.
# Why it matters: a class that often comes in crowds, like COCO's persons, looks as if the model invented objects, and a
#   threshold that is chosen by the matrix is too high. Leave out what lies on a crowd before counting.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
venv=${FINDINGS_VENV:-$work/venv}
"${PYTHON:-python3}" -m venv "$venv"
"$venv/bin/pip" install --quiet --disable-pip-version-check hotcoco==1.3.0 numpy==2.4.6
"$venv/bin/python" - <<'PROGRAM'
import contextlib
import io
import sys
from importlib.metadata import version

import numpy as np
from hotcoco import COCO, COCOeval

failed = False


def check(statement, holds):
    global failed
    failed |= not holds
    print("   ", "as stated:" if holds else "CHANGED:  ", statement)


def evaluate(detections):
    """Return AP and the confusion matrix of one picture with an object and a crowd of the same class."""
    boxes = np.array([[10.0, 10, 50, 50], [100, 100, 300, 200]])
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO.from_arrays(
            images=[{"id": 1, "width": 500, "height": 400}],
            categories=[{"id": 1, "name": "person"}],
            image_ids=np.array([1, 1]),
            category_ids=np.array([1, 1]),
            boxes=boxes,
            area=boxes[:, 2] * boxes[:, 3],
            iscrowd=np.array([False, True]),
        )
        rows = np.array([[1, *box, score, 1] for box, score in detections], np.float64)
        evaluation = COCOeval(truth, truth.load_res(rows), "bbox")
        evaluation.run()
        return evaluation.stats[0], evaluation.confusion_matrix(iou_thr=0.5)["matrix"].astype(int)


found = [((10, 10, 50, 50), 0.9)]
on_crowd = [((120 + 40 * n, 150, 30, 80), 0.8 - 0.01 * n) for n in range(5)]
print(f"hotcoco {version('hotcoco')}")
for name, detections, false in (("with detections on the crowd", found + on_crowd, 5), ("without them", found, 0)):
    ap, matrix = evaluate(detections)
    print(f"  {name}: AP {ap:.3f}, confusion matrix {matrix.tolist()}")
    check("AP is 1", ap > 0.9999)
    check(f"{false} false detections of a person in the matrix", matrix[1, 0] == false)
    check("the object is found and nothing is missed", (matrix[0, 0], matrix[0, 1]) == (1, 0))
sys.exit(failed)
PROGRAM
