"""Annotations and detections in columns: what every evaluator is given, numbered by us."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Annotated, Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from effdet_torch.errors import EvaluationError

# One detection: image_id, category_id, score, and bbox as (xmin, ymin, width, height) in original pixels.
CocoResult = dict[str, Any]
Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@cache
def detection_type(image_id: Any = int) -> Any:
    """Return the type of a `CocoResult` for msgspec, which checks values from files by it.

    Args:
        image_id: the type of the ids of images; a file of COCO results has integers.
    """
    from msgspec import Meta  # late: most runs read no results

    bbox = Annotated[list[float], Meta(min_length=4, max_length=4)]
    fields: dict[str, Any] = {"image_id": image_id, "category_id": int, "bbox": bbox, "score": float}
    return TypedDict("Detection", fields)  # type: ignore[operator]


@dataclass(frozen=True)
class Boxes:
    """Annotations or detections, in their order; row n has the id n + 1.

    The ids are our own: pycocotools takes the id 0 for "not matched", and one that is there twice for the same box.

    Attributes:
        images: (N,), number of the image, from 1.
        categories: (N,), category id.
        boxes_xywh: (N, 4) as (xmin, ymin, width, height) in original pixels.
        areas: (N,), in pixels.
        scores: (N,); 0 for annotations.
        crowds: (N,), whether it is a crowd of objects; no detection is.
    """

    images: Integers
    categories: Integers
    boxes_xywh: Floats
    areas: Floats
    scores: Floats
    crowds: NDArray[np.bool_]


@dataclass(frozen=True)
class Columns:
    """Both sides of an evaluation.

    Attributes:
        image_count: the images have the numbers 1 to `image_count`, by ascending id.
        category_ids: ascending.
        truth: annotations.
        found: detections.
    """

    image_count: int
    category_ids: tuple[int, ...]
    truth: Boxes
    found: Boxes


def to_columns(dataset: Mapping[str, Any], results: Iterable[CocoResult], image_ids: Sequence[int]) -> Columns:
    """Gather what belongs to some images; detections of categories that the data set does not have are left out.

    Raises:
        EvaluationError: A box or a score holds NaN: pycocotools would count such a box as a match.
    """
    numbers = {image_id: number for number, image_id in enumerate(sorted(set(image_ids)), start=1)}
    category_ids = tuple(sorted({category["id"] for category in dataset["categories"]}))
    known = set(category_ids)
    annotations = [x for x in dataset["annotations"] if x["image_id"] in numbers and x["category_id"] in known]
    detections = [x for x in results if x["image_id"] in numbers and x["category_id"] in known]
    truth, found = _boxes(annotations, numbers), _boxes(detections, numbers)
    areas = np.array([x["area"] for x in annotations], np.float64)  # of the object, which is smaller than its box
    truth = replace(truth, areas=areas, crowds=np.array([x["iscrowd"] for x in annotations], bool))
    found = replace(found, scores=np.array([x["score"] for x in detections], np.float64))
    _require_numbers(annotations, truth, "annotation")
    _require_numbers(detections, found, "detection")
    return Columns(len(numbers), category_ids, truth, found)


def _boxes(rows: Sequence[Mapping[str, Any]], numbers: Mapping[int, int]) -> Boxes:
    boxes_xywh = np.array([x["bbox"] for x in rows], np.float64).reshape(-1, 4)
    return Boxes(
        images=np.array([numbers[x["image_id"]] for x in rows], np.int64),
        categories=np.array([x["category_id"] for x in rows], np.int64),
        boxes_xywh=boxes_xywh,
        areas=boxes_xywh[:, 2] * boxes_xywh[:, 3],
        scores=np.zeros(len(rows)),
        crowds=np.zeros(len(rows), bool),
    )


def _require_numbers(rows: Sequence[Mapping[str, Any]], boxes: Boxes, what: str) -> None:
    wrong = np.isnan(boxes.boxes_xywh).any(axis=1) | np.isnan(boxes.scores)
    if wrong.any():
        row = rows[int(wrong.argmax())]
        raise EvaluationError(
            f"image {row['image_id']} has the {what} {dict(row)}; expected numbers, found NaN, in {wrong.sum()} of "
            f"{len(rows)} {what}s. It would be taken for a hit: look for NaN in the model's weights, or mend the file"
        )
