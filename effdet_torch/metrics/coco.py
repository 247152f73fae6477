"""COCO's 12 numbers, computed by pycocotools as the official code does."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

METRICS = (
    *("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large"),
    *("AR1", "AR10", "AR100", "AR_small", "AR_medium", "AR_large"),
)

# One detection: image_id, category_id, score, and bbox as (xmin, ymin, width, height) in original pixels.
CocoResult = dict[str, Any]


def coco_metrics(
    dataset: Mapping[str, Any], results: Iterable[CocoResult], image_ids: Sequence[int]
) -> dict[str, float]:
    """Compare detections with annotations.

    Args:
        dataset: content of an annotation file.
        results: detections; those in other images are left out.
        image_ids: the images to evaluate. One without detections counts: its objects were not found.

    Returns:
        The 12 numbers in 0..1; -1 where the images hold no object of that kind.

    Source: pycocotools `COCOeval`, bounding boxes; official code, `coco_metric.EvaluationMetric`.
    """
    from pycocotools.cocoeval import COCOeval

    wanted = set(image_ids)
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints what it does
        truth = _indexed(dict(dataset) | {"images": [x for x in dataset["images"] if x["id"] in wanted]})
        found = _indexed(dict(dataset) | {"annotations": [*_annotations(results, wanted)]})
        evaluation = COCOeval(truth, found, "bbox")
        evaluation.params.imgIds = sorted(wanted)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return dict(zip(METRICS, map(float, evaluation.stats), strict=True))


def _indexed(dataset: dict[str, Any]) -> Any:
    from pycocotools.coco import COCO

    coco = COCO()
    coco.dataset = dataset
    coco.createIndex()
    return coco


def _annotations(results: Iterable[CocoResult], wanted: set[int]) -> Iterable[dict[str, Any]]:
    """Yield detections as pycocotools' own `loadRes` stores them; that function fails when there are none."""
    for number, result in enumerate(results, start=1):
        if result["image_id"] in wanted:
            area = result["bbox"][2] * result["bbox"][3]
            yield {**result, "id": number, "area": area, "iscrowd": 0}
