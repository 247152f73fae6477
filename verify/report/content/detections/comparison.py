"""Two models side by side: the 12 numbers, every class, and the images in which they differ most."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Any

from effdet_torch.terminal.text import counted
from effdet_torch.untrusted.text import printable
from verify.report.content.detections.details import gallery
from verify.report.content.section import MAX_LISTED, Columns, Section, numbers
from verify.report.content.text import percent
from verify.results.details import Comparison, Details
from verify.results.verification import Verification

SIDES = ("model", "other model")
EQUAL = "0.00"
LONGEST = 24  # letters of a file name in the title of a column


def other_model(verification: Verification) -> Iterator[Section]:
    """Yield how another model compares, if one was evaluated."""
    detection = verification.detection
    if detection is None or detection.comparison is None or detection.details is None:
        return
    comparison, sides = detection.comparison, _sides(verification.model, detection.comparison.model)
    lines = (
        f"The other model is {comparison.model.get('path')}: {counted(comparison.detections, 'detection')} in the same "
        f"images. The difference is {sides[1]} minus {sides[0]}.",
        _settings(verification.settings, comparison.settings),
        *(f"For the other model: {note.sentence}" for note in comparison.notes),
    )
    columns: Columns = {"number": "text", **numbers(*sides, "difference")}
    rows = tuple((name, *_difference(value, comparison.metrics[name])) for name, value in detection.metrics.items())
    yield Section("Compared with another model", lines, columns, rows)
    yield _classes(detection.details, comparison, sides)
    yield _images(detection.details, comparison, sides)


def _sides(*models: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names of both files for titles of columns, unless they are equal or long."""
    names = tuple(printable(PurePath(str(model.get("path", ""))).name) for model in models)
    return names if len({*names, "difference", "objects"}) == 4 and max(map(len, names)) <= LONGEST else SIDES


def _settings(settings: Mapping[str, Any], others: Mapping[str, Any]) -> str:
    """Return what the other model ran with, where that differs."""
    own, pairs = _flat(settings), _flat(others).items()
    different = [f"{name} {value} instead of {own.get(name)}" for name, value in pairs if value != own.get(name)]
    return f"It ran with {', '.join(different)}." if different else "Both ran with the same settings."


def _flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return image size and profile as {name: value}."""
    height, width = settings.get("image_size", ("?", "?"))
    profile = {("profile" if name == "name" else name): value for name, value in settings.get("profile", {}).items()}
    return {"image size": f"{width}x{height}", **profile}


def _difference(first: float, other: float) -> tuple[str, str, str]:
    """Return two shares in 0..100 and their difference."""
    points = round(round(100 * other, 2) - round(100 * first, 2), 2)  # of what is shown
    difference = "n/a" if min(first, other) < 0 else f"{points:+.2f}" if points else EQUAL
    return percent(first), percent(other), difference


def _classes(found: Details, comparison: Comparison, sides: Sequence[str]) -> Section:
    others = {each.category_id: each.metrics["AP"] for each in comparison.classes}
    pairs = [(each, others.get(each.category_id, -1.0)) for each in found.classes if each.curves]
    pairs.sort(key=lambda pair: -abs(pair[1] - pair[0].metrics["AP"]))
    columns: Columns = {"class": "name", **numbers("objects", *sides, "difference")}
    rows = tuple((each.name, str(each.objects), *_difference(each.metrics["AP"], ap)) for each, ap in pairs)
    different = tuple(row for row in rows if row[-1] != EQUAL)
    line = f"AP, the largest difference first; classes with the same AP are left out: {len(rows) - len(different)}."
    return Section("Classes of both models", (line,), columns, different, MAX_LISTED)


def _images(found: Details, comparison: Comparison, sides: Sequence[str]) -> Section:
    columns: Columns = {"image": "name", **numbers("different", *(f"mistakes, {side}" for side in sides))}
    images = {image.image_id: image for image in comparison.images}
    rows = tuple(
        (image.file, str(image.different), str(image.mistakes), str(image.other_mistakes))
        for image in (images[shown.image_id] for shown in comparison.shown)
    )
    differing = sum(image.different > 0 for image in comparison.images)
    line = (
        f"{differing or 'None'} of {counted(len(comparison.images), 'image')} where the models differ: a detection of "
        f"one (score at least {found.min_score:g}) that the other does not have, of the same class and with an IoU of "
        f"at least {found.min_iou:g}."
    )
    figure = gallery(comparison.shown)
    return Section("Images that differ most", (line,), columns, rows, MAX_LISTED, figure=figure)
