"""Two models on the same images: every class side by side, and the images in which they differ most."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from effdet_torch.metrics.classes import class_metrics
from effdet_torch.metrics.columns import Boxes, Columns, Integers
from effdet_torch.metrics.matches import Matches, match_boxes
from verify.detections.details import class_names, evaluated, shown_boxes
from verify.detections.pictures import with_pictures
from verify.detections.run import Evaluation
from verify.results.details import ComparedImage, Comparison, ShownImage, Side


def compare_models(
    first: Evaluation, second: Evaluation, model: Mapping[str, Any], pictures: bool = False
) -> Comparison:
    """Compare two models that were evaluated on the same images with the same settings.

    Args:
        first: of the model that the report is about.
        second: of the other model.
        model: what the report says of the other model's file.
        pictures: whether the images that are shown are drawn.

    Returns:
        The second one beside the first, with the category ids of the first.

    Raises:
        EvaluationError: The images have no annotations.
    """
    score, numbers = first.settings.score, _numbers(second, first)
    sides = [match_boxes(evaluated(evaluation).columns, score) for evaluation in (first, second)]
    images = _compared_images(first, sides, match_boxes(_between(sides, score, numbers), score))
    others = class_metrics(evaluated(second), class_names(second))
    classes = (replace(x, category_id=numbers[x.category_id]) for x in others if numbers[x.category_id] > 0)
    most = sorted((x for x in images if x.different), key=lambda image: -image.different)[: first.settings.shown]
    shown = tuple(_shown(image, images.index(image), sides, (first, second)) for image in most)
    if pictures:
        captions: dict[Side, str] = {"truth": "truth", "model": first.path.name, "other model": second.path.name}
        shown = with_pictures(shown, first.split, captions)
    return Comparison(
        model=model,
        detections=len(second.results),
        metrics=second.metrics,
        classes=tuple(sorted(classes, key=lambda each: each.category_id)),
        images=images,
        shown=shown,
        notes=tuple(note for note in second.split.notes if note not in first.split.notes),
    )


def _numbers(second: Evaluation, first: Evaluation) -> dict[int, int]:
    """Return {category id of the second model: of the first}; negative where the first model does not have it."""
    ids = {stated: number for number, stated in first.split.stated_ids.items()}
    return {number: ids.get(stated, -number) for number, stated in second.split.stated_ids.items()}


def _between(sides: list[Matches], score: float, numbers: Mapping[int, int]) -> Columns:
    """Return the detections of the first model, and as truth those of the second."""
    first, second = (side.columns for side in sides)
    categories = np.array([numbers[number] for number in second.found.categories.tolist()], np.int64)
    truth = _rows(replace(second.found, categories=categories), np.flatnonzero(second.found.scores >= score))
    return replace(first, truth=truth)


def _rows(boxes: Boxes, rows: Integers) -> Boxes:
    return Boxes(**{name: column[rows] for name, column in vars(boxes).items()})


def _compared_images(first: Evaluation, sides: list[Matches], between: Matches) -> tuple[ComparedImage, ...]:
    counts = (matches.by_image[:, 1:].sum(axis=1).tolist() for matches in (between, *sides))
    rows = zip(first.split.images, *counts, strict=True)
    return tuple(ComparedImage(image.image_id, image.path.name, *row) for image, *row in rows)


def _shown(
    image: ComparedImage, index: int, sides: list[Matches], evaluations: tuple[Evaluation, Evaluation]
) -> ShownImage:
    """Return an image with the truth and the detections of both models."""
    names: tuple[tuple[Side | None, Side], ...] = (("truth", "model"), (None, "other model"))
    boxes = (
        shown_boxes(matches, index, class_names(evaluation), of_side)
        for matches, evaluation, of_side in zip(sides, evaluations, names, strict=True)
    )
    return ShownImage(image.image_id, image.file, tuple(box for part in boxes for box in part))
