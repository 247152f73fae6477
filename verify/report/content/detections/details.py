"""One model in detail: its classes, their curves, which classes are taken for which, and its worst images."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from effdet_torch.metrics.classes import ClassMetrics
from effdet_torch.terminal.text import counted
from verify.report.content.figures import CurvePanel, Curves, Gallery, Matrix
from verify.report.content.section import MAX_LISTED, Columns, Section, numbers
from verify.report.content.text import percent
from verify.results.details import Confusion, Details, ShownImage
from verify.results.verification import Verification

SHOWN = ("AP", "AP50", "AP75")


def model_details(verification: Verification) -> Iterator[Section]:
    """Yield classes, curves, confusions and images, if there are annotations."""
    detection = verification.detection
    if detection is None or detection.details is None:
        return
    found = detection.details
    yield _classes(found)
    yield from _curves(by_ap(found.classes))
    yield _confusions(found)
    yield _worst_images(found)


def by_ap(classes: Iterable[ClassMetrics]) -> list[ClassMetrics]:
    """Return the classes with objects, the lowest AP first."""
    return sorted((each for each in classes if each.curves), key=lambda each: each.metrics["AP"])


def gallery(shown: Sequence[ShownImage]) -> Gallery | None:
    """Return the images that were drawn."""
    drawn = tuple(image for image in shown if image.pictures)
    return Gallery(drawn) if drawn else None


def _counting(found: Details) -> str:
    """Return which detections count."""
    return f"score at least {found.min_score:g}, IoU at least {found.min_iou:g}"


def _classes(found: Details) -> Section:
    columns: Columns = {"class": "name"}
    columns = {**columns, **numbers("objects", *SHOWN, "F1", "at score", "right", "wrong", "missed", "false")}
    counts, classes = found.confusion.by_class, by_ap(found.classes)
    rows = tuple(
        (
            each.name,
            str(each.objects),
            *(percent(each.metrics[name]) for name in SHOWN),
            *_best_f1(each),
            *map(str, counts[each.category_id]),
        )
        for each in classes
    )
    lines = (
        "The lowest AP first. F1 is the best at IoU 0.5, with the score that reaches it. The last four columns count "
        f"({_counting(found)}): objects right, wrong (found as another class) or missed, and false detections.",
        _left_out(found),
    )
    return Section("Classes", lines, columns, rows, MAX_LISTED)


def _best_f1(each: ClassMetrics) -> tuple[str, str]:
    """Return the best F1 and its score, as cells."""
    best = each.best_f1
    score = None if best is None else best.score
    return percent(-1.0 if best is None else best.f1), "n/a" if score is None else f"{score:.2f}"


def _left_out(found: Details) -> str:
    """Return how many classes have no row, and their false detections."""
    empty = [each.category_id for each in found.classes if not each.curves]
    false = sum(found.confusion.by_class[number][-1] for number in empty)
    return (
        f"Classes without objects, which have no AP and no row: {len(empty)}, with {counted(false, 'false detection')}."
    )


def _curves(classes: Sequence[ClassMetrics]) -> Iterator[Section]:
    panels = tuple(CurvePanel.of_class(each) for each in classes)
    line = (
        "Up: precision, the share of detections that are right. To the right: recall, the share of objects that are "
        "found, as ever lower scores are taken. Both from 0 to 1; the first panel is the mean of all classes."
    )
    if panels:
        figure = Curves((CurvePanel.mean(panels), *panels))
        yield Section("Precision and recall", (line,), figure=figure, detailed=True)


def _confusions(found: Details) -> Section:
    pairs = sorted(_pairs(found.confusion), key=lambda pair: (-pair[0], -pair[1]))
    columns: Columns = {"class": "name", "found as": "name", **numbers("objects", "of the class, %")}
    rows = tuple((name, other, str(count), percent(share)) for count, share, name, other in pairs)
    found_as = "Objects that were found as another class" if rows else "No object was found as another class"
    line = f"{found_as} ({_counting(found)})."
    return Section("Confusions", (line,), columns, rows, MAX_LISTED, figure=Matrix.of(found.confusion))


def _pairs(confusion: Confusion) -> Iterator[tuple[int, float, str, str]]:
    """Yield count, share of the class's objects, class, and the class that it was found as."""
    for k, (name, counts) in enumerate(zip(confusion.names, confusion.counts[:-1], strict=True)):
        for j, (other, count) in enumerate(zip(confusion.names, counts[:-1], strict=True)):
            if count and j != k:
                yield count, count / sum(counts), name, other


def _worst_images(found: Details) -> Section:
    columns: Columns = {"image": "name", **numbers("mistakes", "right", "wrong", "missed", "false")}
    images = {image.image_id: image for image in found.images}
    rows = tuple(
        (image.file, *map(str, (image.mistakes, image.right, image.wrong_class, image.missed, image.false)))
        for image in (images[shown.image_id] for shown in found.worst)
    )
    wrong = sum(image.mistakes > 0 for image in found.images)
    line = (
        f"{wrong} of {counted(len(found.images), 'image')} with mistakes: objects that were missed or found as another "
        f"class, and false detections ({_counting(found)}). Crowds, and detections on them, are not counted."
    )
    return Section("Worst images", (line,), columns, rows, MAX_LISTED, figure=gallery(found.worst))
