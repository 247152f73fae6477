"""Made-up details of evaluations for the reports: three classes, two images, another model; and hostile names."""

from __future__ import annotations

from dataclasses import replace

from effdet_torch.metrics.classes import BestF1, ClassMetrics, Curve
from effdet_torch.metrics.coco import METRICS
from verify.results.details import (
    ComparedImage,
    Comparison,
    Confusion,
    Details,
    ImageResult,
    Picture,
    ShownBox,
    ShownImage,
)

NASTY = "<script>alert(1)</script>|`a``b`*&\"'\x1b[31m\n\udc80"
JPEG = b"\xff\xd8 not a real one \xff\xd9"


def class_of(number: int, name: str, objects: int, ap: float) -> ClassMetrics:
    """Return a class whose precision falls from 1 at half of the recall."""
    if not objects:
        return ClassMetrics(number, name, 0, 4, dict.fromkeys(METRICS, -1.0), {}, None)
    curve = Curve((1.0,) * 50 + (ap,) * 51, (0.9,) * 50 + (0.25,) * 51)
    curves = {"0.50": curve, "0.75": replace(curve, precision=(ap,) * 101)}
    metrics = {name: round(ap - 0.01 * n, 2) for n, name in enumerate(METRICS)} | {"AP_large": -1.0}
    return ClassMetrics(number, name, objects, 2 * objects, metrics, curves, BestF1(ap, 0.25))


BOX = ShownBox("truth", 1, "cat", (1.0, 2.0, 30.0, 40.0), None, "wrong class", "dog")
FOUND = ShownBox("model", 3, "dog", (1.5, 2.0, 30.0, 40.0), 0.875, "wrong class", "cat")
SHOWN = ShownImage(7, "7.jpg", (BOX, FOUND), (Picture("truth: 1 wrong class", JPEG), Picture("d0.pth: 1", JPEG)))
DETAILS = Details(
    min_score=0.3,
    min_iou=0.5,
    classes=(class_of(1, "cat", 6, 0.5), class_of(2, "hen", 0, -1.0), class_of(3, "dog", 2, 0.25)),
    confusion=Confusion((1, 2, 3), ("cat", "hen", "dog"), ((3, 0, 2, 1), (0, 0, 0, 0), (0, 0, 2, 0), (0, 0, 5, 0))),
    images=(ImageResult(7, "7.jpg", 1, 2, 1, 5), ImageResult(9, "9.jpg", 4, 0, 0, 0)),
    worst=(SHOWN,),
)
COMPARISON = Comparison(
    model={"path": "d1.pth", "size_bytes": 26_000_000, "sha256": "1d" * 32, "metadata": {"variant": "d1"}},
    settings={"image_size": [640, 640], "profile": {"name": "official-eval", "iou_threshold": 0.5}},
    detections=120_000,
    metrics={name: 0.4 - 0.01 * n for n, name in enumerate(METRICS)},
    classes=(class_of(1, "cat", 6, 0.75), class_of(3, "dog", 2, 0.2)),
    images=(ComparedImage(7, "7.jpg", 3, 8, 5), ComparedImage(9, "9.jpg", 0, 0, 0)),
    shown=(replace(SHOWN, pictures=(*SHOWN.pictures, Picture("d1.pth: nothing", JPEG))),),
)
NO_DETAILS = replace(DETAILS, classes=(class_of(2, "hen", 0, -1.0),), worst=())
NASTY_COMPARISON = replace(COMPARISON, model={"path": NASTY, NASTY: NASTY}, classes=())
NASTY_DETAILS = replace(
    DETAILS,
    classes=(class_of(1, NASTY, 6, 0.5),),
    confusion=Confusion((1, 2), (NASTY, NASTY), ((3, 2, 1), (0, 0, 0), (0, 0, 0))),
    images=(ImageResult(7, NASTY, 1, 2, 1, 5),),
    worst=(ShownImage(7, NASTY, (replace(BOX, name=NASTY),), (Picture(NASTY, JPEG), Picture(NASTY, b""))),),
)
