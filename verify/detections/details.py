"""An evaluation in detail: every class, which classes are taken for which, and the images with the most mistakes."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping

import numpy as np

from effdet_torch.data.dataset import DataSet
from effdet_torch.errors import EvaluationError
from effdet_torch.metrics.classes import class_metrics
from effdet_torch.metrics.coco import BoxEvaluation
from effdet_torch.metrics.matches import BELOW_SCORE, MIN_IOU, WRONG_CLASS, Judged, Matches, match_boxes
from verify.detections.pictures import with_pictures
from verify.detections.run import Evaluation
from verify.results.details import Confusion, Details, ImageResult, ShownBox, ShownImage, Side

Names = Mapping[int, str]


def details_of(evaluation: Evaluation) -> Details:
    """Return what a model gets right and wrong.

    Raises:
        EvaluationError: The images have no annotations.
    """
    boxes, names, settings = evaluated(evaluation), class_names(evaluation), evaluation.settings
    matches = match_boxes(boxes.columns, settings.score)
    images = image_results(evaluation, matches)
    worst = sorted((x for x in images if x.mistakes), key=lambda image: -image.mistakes)[: settings.shown]
    shown = tuple(ShownImage(x.image_id, x.file, shown_boxes(matches, images.index(x), names)) for x in worst)
    if settings.pictures:
        shown = with_pictures(shown, evaluation.split, {"truth": "truth", "model": "model"})
    return Details(
        min_score=settings.score,
        min_iou=MIN_IOU,
        classes=tuple(class_metrics(boxes, names)),
        confusion=_confusion(matches, names),
        images=images,
        worst=shown,
    )


def evaluated(evaluation: Evaluation) -> BoxEvaluation:
    """Return the comparison with the annotations.

    Raises:
        EvaluationError: The images have no annotations.
    """
    if evaluation.boxes is None:
        raise EvaluationError(f"{evaluation.split.name} has no annotations: no class and no image can be judged")
    return evaluation.boxes


def class_names(evaluation: Evaluation) -> dict[int, str]:
    """Return {category id of the model: name}, by the data set, else by the model."""
    labels = evaluation.predictor.label_map
    return {x: name or labels.get(x, f"class {x}") for x, name in evaluation.split.categories.items()}


def file_names(split: DataSet) -> list[str]:
    """Return the names of the images, with the folders in which they differ."""
    folders = {image.path.parent for image in split.images}
    if len(folders) == 1:
        return [image.name for image in split.images]
    common = os.path.commonpath(folders)
    return [(image.path.parent.relative_to(common) / image.name).as_posix() for image in split.images]


def image_results(evaluation: Evaluation, matches: Matches) -> tuple[ImageResult, ...]:
    """Return what became of every image's objects and detections, by ascending id."""
    split = evaluation.split
    rows = zip(split.image_ids, file_names(split), matches.by_image.tolist(), strict=True)
    return tuple(ImageResult(image_id, file, *counts) for image_id, file, counts in rows)


def shown_boxes(matches: Matches, index: int, names: Names) -> tuple[ShownBox, ...]:
    """Return the boxes of an image: the objects, then the detections that count, best first.

    Args:
        matches: of all images.
        index: of the image, from 0.
        names: {category id: name}.
    """
    sides: tuple[tuple[Judged, Side], ...] = ((matches.truth, "truth"), (matches.found, "model"))
    return tuple(box for judged, side in sides for box in _shown(judged, index + 1, names, side))


def _shown(judged: Judged, number: int, names: Names, side: Side) -> Iterator[ShownBox]:
    boxes = judged.boxes
    rows = np.flatnonzero((boxes.images == number) & (judged.outcomes != BELOW_SCORE))
    for row in rows[np.argsort(-boxes.scores[rows], kind="stable")].tolist():
        category_id, counterpart, outcome = (
            int(boxes.categories[row]),
            int(judged.categories[row]),
            str(judged.outcomes[row]),
        )
        yield ShownBox(
            side=side,
            category_id=category_id,
            name=names[category_id],
            bbox=tuple(boxes.boxes_xywh[row].tolist()),
            score=None if side == "truth" else float(boxes.scores[row]),
            outcome=outcome,
            counterpart=names[counterpart] if outcome == WRONG_CLASS else "",
        )


def _confusion(matches: Matches, names: Names) -> Confusion:
    ids = matches.columns.category_ids
    counts = tuple(map(tuple, matches.confusion.tolist()))
    return Confusion(ids, tuple(names[number] for number in ids), counts)
