#!/usr/bin/env bash
# OpenCV's per-class NMS removes a box because of a box of another class at another place, if a coordinate is negative.
#
# Expected: cv2.dnn.NMSBoxesBatched suppresses per class: two boxes of different classes, far from each other, both stay.
# Seen (opencv-python-headless 5.0.0.93; score threshold .1, IoU threshold .5; boxes are x, y, width, height):
#   class 0: 90, 90, 10, 10, score .9;  class 1: -11, -11, 10, 10, score .8
#     NMSBoxesBatched                             keeps class 0 only
#     NMSBoxes on all boxes, whatever the class   keeps both
#   Per-class NMS removes more than NMS without classes. There is no warning.
#   Of 300 random boxes in 20 classes, all at least partly inside a picture of 640x640 (100 pictures):
#     kept by NMSBoxes class by class 27993, by NMSBoxesBatched 27934
#     the same boxes cut to the picture first: 27985 and 27985
# Why, as far as this script shows it: all classes are suppressed in one go, each moved along the diagonal by class times
#   (largest coordinate + 1). That separates the classes only if no coordinate is negative: 90 and 101 - 11 are the same.
#   Moved by a constant so that nothing is negative, the same boxes are all kept.
# Why it matters: a detector's boxes reach beyond the picture until something clips them, and clipping usually comes after
#   NMS. Objects at the left and upper edge disappear where something of the class before stands at the opposite edge.
#   The documentation of the function does not ask for positive coordinates (torchvision's, for its own, does).
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
venv=${FINDINGS_VENV:-$work/venv}
"${PYTHON:-python3}" -m venv "$venv"
"$venv/bin/pip" install --quiet --disable-pip-version-check opencv-python-headless==5.0.0.93 numpy==2.4.6
"$venv/bin/python" - <<'PROGRAM'
import sys

import cv2
import numpy as np

SCORE, IOU, SIDE = 0.1, 0.5, 640
failed = False


def check(statement, holds):
    global failed
    failed |= not holds
    print("   ", "as stated:" if holds else "CHANGED:  ", statement)


def batched(boxes, scores, classes):
    """Return the sorted indices that NMSBoxesBatched keeps of boxes (N, 4) as x, y, width, height."""
    kept = cv2.dnn.NMSBoxesBatched(boxes.tolist(), scores.tolist(), classes.tolist(), SCORE, IOU)
    return sorted(np.asarray(kept).ravel().tolist())


def class_by_class(boxes, scores, classes):
    kept = []
    for number in np.unique(classes):
        members = np.flatnonzero(classes == number)
        kept += members[np.ravel(cv2.dnn.NMSBoxes(boxes[members].tolist(), scores[members].tolist(), SCORE, IOU))].tolist()
    return sorted(kept)


def inside(boxes):
    """Cut boxes to the picture."""
    corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1).clip(0, SIDE)
    return np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)


print(f"OpenCV {cv2.__version__}")
boxes, scores, classes = np.array([[90, 90, 10, 10], [-11, -11, 10, 10]]), np.array([0.9, 0.8]), np.array([0, 1])
check("of two distant boxes of two classes, the first stays", batched(boxes, scores, classes) == [0])
check("NMS without classes keeps both", len(cv2.dnn.NMSBoxes(boxes.tolist(), scores.tolist(), SCORE, IOU)) == 2)
check("moved by 11, both stay", batched(boxes + [11, 11, 0, 0], scores, classes) == [0, 1])

rng = np.random.default_rng(0)
counts = np.zeros(4, int)
extra = 0
for _ in range(100):
    size = rng.uniform(20, 200, (300, 2))
    boxes = np.concatenate([rng.uniform(-size / 2, SIDE - size / 2), size], axis=1)
    scores, classes = rng.uniform(0.2, 1, 300), rng.integers(0, 20, 300)
    kept = [method(form(boxes), scores, classes) for form in (np.asarray, inside) for method in (class_by_class, batched)]
    counts += [len(indices) for indices in kept]
    extra += len(set(kept[1]) - set(kept[0]))
print("    kept class by class {}, batched {}; cut to the picture first: {} and {}".format(*counts), extra)
check("of boxes that reach beyond the picture, batched loses some", counts[1] < counts[0] - 10)
check("of boxes cut to the picture, both keep as many", counts[2] == counts[3])
sys.exit(failed)
PROGRAM
