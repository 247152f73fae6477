"""Two models on the same images: every class side by side, and the images in which they differ most."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from effdet_torch.metrics.classes import class_metrics
from effdet_torch.metrics.matches import Matches, match_boxes
from verify.detections.details import class_names, evaluated, file_names, shown_boxes
from verify.detections.matching import MIN_IOU, grouped, overlaps, pair_up, side_of
from verify.detections.pictures import with_pictures
from verify.detections.run import Evaluation
from verify.results.details import ComparedImage, Comparison, ShownImage, Side

Numbers = Mapping[int, int]  # {category id of the second model: of the first}


def compare_models(first: Evaluation, second: Evaluation, model: Mapping[str, Any]) -> Comparison:
    """Compare two models that were evaluated on the same images.

    Args:
        first: of the model that the report is about.
        second: of the other model.
        model: what the report says of the other model's file.

    Returns:
        The second one beside the first, with the category ids of the first.

    Raises:
        EvaluationError: The images have no annotations.
    """
    numbers, score = _numbers(second, first), first.settings.score
    sides = [match_boxes(evaluated(evaluation).columns, score) for evaluation in (first, second)]
    images = _compared_images(first, second, sides, numbers)
    classes = (
        replace(each, category_id=numbers[each.category_id])
        for each in class_metrics(evaluated(second), class_names(second))
        if numbers[each.category_id] > 0
    )
    most = sorted((x for x in images if x.different), key=lambda image: -image.different)[: first.settings.shown]
    shown = tuple(_shown(image, images.index(image), (first, second), sides, numbers) for image in most)
    captions: dict[Side, str] = {"truth": "truth", "model": "model", "other model": "other model"}
    return Comparison(
        model=model,
        settings=second.own_settings,
        detections=len(second.results),
        metrics=second.metrics,
        classes=tuple(sorted(classes, key=lambda each: each.category_id)),
        images=images,
        shown=with_pictures(shown, first.split, captions) if first.settings.pictures else shown,
        notes=tuple(note for note in second.split.notes if note not in first.split.notes),
    )


def _numbers(second: Evaluation, first: Evaluation) -> dict[int, int]:
    """Return {category id of the second model: of the first}; negative where the first model does not have it."""
    ids = {stated: number for number, stated in first.split.stated_ids.items()}
    return {number: ids.get(stated, -number) for number, stated in second.split.stated_ids.items()}


def _compared_images(
    first: Evaluation, second: Evaluation, sides: list[Matches], numbers: Numbers
) -> tuple[ComparedImage, ...]:
    different = _different(first, second, numbers)
    mistakes = (matches.by_image[:, 1:].sum(axis=1).tolist() for matches in sides)
    rows = zip(first.split.image_ids, file_names(first.split), *mistakes, strict=True)
    return tuple(ComparedImage(image_id, file, different[image_id], *counts) for image_id, file, *counts in rows)


def _different(first: Evaluation, second: Evaluation, numbers: Numbers) -> Counter[int]:
    """Return {image id: detections without a counterpart of the same class in the other model, closest first}."""
    own, other = ([x for x in each.results if x["score"] >= first.settings.score] for each in (first, second))
    other = [x | {"category_id": numbers.get(x["category_id"], -x["category_id"])} for x in other]
    groups, found = (grouped(own), grouped(other)), Counter[int]()
    for key in groups[0].keys() | groups[1].keys():
        boxes = [side_of(group.get(key, []))[0] for group in groups]
        iou = overlaps(*boxes)
        found[key[0]] += len(boxes[0]) + len(boxes[1]) - 2 * len(pair_up(1 - iou, iou >= MIN_IOU))
    return found


def _shown(
    image: ComparedImage,
    index: int,
    evaluations: tuple[Evaluation, Evaluation],
    sides: list[Matches],
    numbers: Numbers,
) -> ShownImage:
    """Return an image with the truth and the detections of both models."""
    own, other = (shown_boxes(side, index, class_names(of)) for side, of in zip(sides, evaluations, strict=True))
    boxes = (
        replace(box, side="other model", category_id=numbers[box.category_id]) for box in other if box.side == "model"
    )
    return ShownImage(image.image_id, image.file, (*own, *boxes))
