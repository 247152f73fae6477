#!/usr/bin/env bash
# torchmetrics' IntersectionOverUnion of a perfect detector is 1/n, and that of one that misses almost everything 1.
#
# Expected: the IoU metric of detections that equal the objects is 1, and objects that were missed lower it.
# Seen (torchmetrics 1.9.0, torch 2.14.1, torchvision 0.29.1; objects far from each other):
#                                                          iou      of the function, aggregate=True
#   1 object, found exactly                                1.000         1.000
#   10 objects of one class, found exactly                  .100         1.000
#   10 objects of 10 classes, found exactly                1.000         1.000
#   10 objects of 10 classes, one found exactly            1.000
#   10 objects of 10 classes, one found exactly, and 50
#     false detections of other classes                    1.000
#   10 pictures with one object each, found in one          .100
#   10 objects of one class, found exactly, threshold .5   1.000
#   GeneralizedIntersectionOverUnion of the second row is -.735.
# Why, as far as this script shows it: detections are not matched with objects. The mean runs over all pairs of a detection
#   and an object of the same class in a picture, 100 pairs of which 90 do not touch. An object without a detection of its
#   class has no pair, and so does not count; only a picture without any detection counts, as 0. With iou_threshold only
#   pairs above it are averaged. The function of the same name takes the diagonal: the i-th detection with the i-th object.
# Why it matters: the number falls with the number of objects in a picture, not with the quality of their boxes, and says
#   nothing of missed objects. Models are compared, and checkpoints chosen, by the crowdedness of the pictures. The
#   documentation calls it "Intersection Over Union (IoU)" and does not say what is averaged. Match first, then average.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
venv=${FINDINGS_VENV:-$work/venv}
"${PYTHON:-python3}" -m venv "$venv"
"$venv/bin/pip" install --quiet --disable-pip-version-check \
    torchmetrics==1.9.0 torch==2.14.1 torchvision==0.29.1 numpy==2.4.6
export CUDA_VISIBLE_DEVICES=""
cd "$work"
cat >program.py <<'PROGRAM'
import sys

import torch
import torchmetrics
import torchvision
from torchmetrics.detection import GeneralizedIntersectionOverUnion, IntersectionOverUnion
from torchmetrics.functional.detection import intersection_over_union

failed = False


def check(statement, holds):
    global failed
    failed |= not holds
    print("   ", "as stated:" if holds else "CHANGED:  ", statement)


def squares(count, offset=0):
    """Return (count, 4) boxes of 10x10 pixels that do not touch."""
    corner = torch.arange(count).float()[:, None] * 20 + offset
    return torch.cat([corner, corner, corner + 10, corner + 10], dim=1)


def picture(boxes, labels):
    return {"boxes": boxes, "labels": torch.as_tensor(labels)}


def value(found, objects, metric=IntersectionOverUnion, **options):
    return next(iter(metric(**options)(found, objects).values())).item()


versions = (torchmetrics.__version__, torch.__version__, torchvision.__version__)
print("torchmetrics {}, torch {}, torchvision {}".format(*versions))
ten, one = squares(10), squares(1)
same, different = picture(ten, [0] * 10), picture(ten, range(10))
false = picture(torch.cat([one, squares(50, 500)]), [0] + list(range(10, 60)))
for name, found, objects, options, expected in (
    ("1 object, found exactly", [picture(one, [0])], [picture(one, [0])], {}, 1),
    ("10 objects of one class, found exactly", [same], [same], {}, 0.1),
    ("10 objects of 10 classes, found exactly", [different], [different], {}, 1),
    ("10 objects of 10 classes, one found", [picture(one, [0])], [different], {}, 1),
    ("one found, and 50 false detections", [false], [different], {}, 1),
    (
        "10 pictures, found in one",
        [picture(one, [0])] + [picture(torch.empty(0, 4), torch.empty(0, dtype=torch.int64))] * 9,
        [picture(one, [0])] * 10,
        {},
        0.1,
    ),
    ("10 objects of one class, threshold .5", [same], [same], {"iou_threshold": 0.5}, 1),
    ("the same with GIoU", [same], [same], {"metric": GeneralizedIntersectionOverUnion}, -0.735),
):
    iou = value(found, objects, **options)
    check(f"{name}: {iou:.3f}", abs(iou - expected) < 5e-4)
for boxes in (one, ten):
    iou = intersection_over_union(boxes, boxes, aggregate=True).item()
    check(f"the function, {len(boxes)} found exactly: {iou:.3f}", abs(iou - 1) < 1e-6)
sys.exit(failed)
PROGRAM
"$venv/bin/python" -W ignore program.py
