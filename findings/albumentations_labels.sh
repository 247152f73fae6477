#!/usr/bin/env bash
# albumentations returns other numbers in label_fields than it was given: annotation ids above 2^24 are rounded.
#
# Expected: the fields named in label_fields travel with their boxes and come back unchanged, without the rows of boxes
#   that were dropped.
# Seen (albumentations 2.0.8; a horizontal flip of a picture with two boxes):
#   given                                     returned
#   ids = [900100581263, 16777217]            [900100587520.0, 16777216.0]
#   ids = numpy.array([900100581263, ...])    array([900100587520, 16777216]), still int64
#   ids = ["900100581263", "16777217"]        unchanged
#   labels = [1, 2]                           [1.0, 2.0]
#   There is no warning.
# Why, as far as this script shows it: the fields come back as if they had been stored as float32, whose whole numbers end
#   at 2^24 = 16777216. Strings are encoded, and so survive.
# Why it matters: COCO's own annotation ids are that large (its crowds have 12 digits), and an id that is carried through
#   an augmentation to find the annotation again finds another one, or none. Ids of time stamps or hashes collide. Carry
#   the index of the box instead, or pass ids as strings.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
venv=${FINDINGS_VENV:-$work/venv}
"${PYTHON:-python3}" -m venv "$venv"
"$venv/bin/pip" install --quiet --disable-pip-version-check \
    albumentations==2.0.8 opencv-python-headless==5.0.0.93 numpy==2.4.6
export NO_ALBUMENTATIONS_UPDATE=1
"$venv/bin/python" -W error - <<'PROGRAM'
import sys

import albumentations as A
import numpy as np

IDS, ROUNDED = [900100581263, 16777217], [900100587520, 16777216]
failed = False


def check(statement, holds):
    global failed
    failed |= not holds
    print("   ", "as stated:" if holds else "CHANGED:  ", statement)


def flipped(ids):
    """Return the labels and ids after a flip."""
    boxes = A.BboxParams(format="coco", label_fields=["labels", "ids"])
    flip = A.Compose([A.HorizontalFlip(p=1)], bbox_params=boxes)
    picture = np.zeros((100, 100, 3), np.uint8)
    result = flip(image=picture, bboxes=[[10, 10, 20, 20], [30, 30, 20, 20]], labels=[1, 2], ids=ids)
    return result["labels"], result["ids"]


print(f"albumentations {A.__version__}")
labels, ids = flipped(IDS)
check(f"a list {IDS} becomes {ids}", ids == ROUNDED)
check(f"labels [1, 2] become {labels}", labels == [1, 2] and all(type(label) is float for label in labels))
_, ids = flipped(np.array(IDS))
check(f"an array becomes {ids}, {ids.dtype}", ids.dtype == np.int64 and ids.tolist() == ROUNDED)
_, ids = flipped([str(number) for number in IDS])
check(f"strings stay {list(ids)}", list(ids) == [str(number) for number in IDS])
small = [2**24 - 1, 2**24]
check("ids up to 2^24 keep their value", list(flipped(small)[1]) == small)
sys.exit(failed)
PROGRAM
