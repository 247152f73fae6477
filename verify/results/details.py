"""What people look at after an evaluation - classes, confusions, images, another model - as plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from effdet_torch.data.rules import Note
from effdet_torch.metrics.classes import ClassMetrics
from verify.results.claim import Claim, claim_of

Side = Literal["truth", "model", "other model"]


@dataclass(frozen=True)
class Confusion:
    """How many objects of one class were found as another, by `effdet_torch.metrics.matches`.

    Attributes:
        category_ids: of the K classes, ascending.
        names: of these.
        counts: K + 1 rows of K + 1; row: what the object is, column: what it was found as. The last row holds
            detections without an object, the last column missed objects.
    """

    category_ids: tuple[int, ...]
    names: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]

    @property
    def by_class(self) -> dict[int, tuple[int, int, int, int]]:
        """{category id: its objects that are right, found as another class, missed; its false detections}."""
        *rows, false = self.counts
        return {
            number: (row[k], sum(row[:-1]) - row[k], row[-1], false[k])
            for k, (number, row) in enumerate(zip(self.category_ids, rows, strict=True))
        }


@dataclass(frozen=True)
class ImageResult:
    """What became of the objects and detections in one image.

    Attributes:
        image_id: of the image.
        file: its name.
        right: objects that were found with their class.
        wrong_class: objects that were found with another class.
        missed: objects that were not found.
        false: detections without an object.
    """

    image_id: int
    file: str
    right: int
    wrong_class: int
    missed: int
    false: int

    @property
    def mistakes(self) -> int:
        """All that is not right."""
        return self.wrong_class + self.missed + self.false


@dataclass(frozen=True)
class ShownBox:
    """An object or a detection in an image that is shown.

    Attributes:
        side: whose it is.
        category_id: of its class, for the first model; negative if only the other model has the class.
        name: of its class.
        bbox: (xmin, ymin, width, height) in pixels of the image.
        score: None for an object.
        outcome: "right", "wrong class", "missed", "false" or "not counted" (a crowd, or on a crowd).
        counterpart: the class that a wrong one was found as, or should have been; "" else.
    """

    side: Side
    category_id: int
    name: str
    bbox: tuple[float, ...]
    score: float | None
    outcome: str
    counterpart: str = ""


class Picture(NamedTuple):
    """A drawn image.

    Attributes:
        caption: what is drawn.
        jpeg: the file; not part of JSON.
    """

    caption: str
    jpeg: bytes


@dataclass(frozen=True)
class ShownImage:
    """An image that is shown.

    Attributes:
        image_id: of the image.
        file: its name.
        boxes: all objects, and the detections of at least the score that counts.
        pictures: drawn, if a report with pictures is written.
    """

    image_id: int
    file: str
    boxes: tuple[ShownBox, ...]
    pictures: tuple[Picture, ...] = field(default=(), repr=False, metadata={"json": False})


@dataclass(frozen=True)
class Details:
    """One model in detail.

    Attributes:
        min_score: least score of the detections in `confusion`, `images` and `worst`; `classes` has all.
        min_iou: least intersection over union of an object and its detection there.
        classes: by ascending id.
        confusion: which classes are taken for which.
        images: all, by ascending id.
        worst: the images with the most mistakes, the worst first.
    """

    min_score: float
    min_iou: float
    classes: tuple[ClassMetrics, ...]
    confusion: Confusion
    images: tuple[ImageResult, ...]
    worst: tuple[ShownImage, ...] = ()


@dataclass(frozen=True)
class ComparedImage:
    """One image, as two models see it.

    Attributes:
        image_id: of the image.
        file: its name.
        different: detections of either model that the other does not have with the same class.
        mistakes: of the model.
        other_mistakes: of the other model.
    """

    image_id: int
    file: str
    different: int
    mistakes: int
    other_mistakes: int


@dataclass(frozen=True)
class Comparison:
    """Another model, evaluated on the same images.

    Attributes:
        model: path, size, SHA-256 and metadata of its file.
        settings: image size and profile that it ran with; both depend on the model unless they are chosen.
        detections: how many it found.
        metrics: its 12 numbers.
        classes: by ascending id of the first model.
        images: all, by ascending id.
        shown: the images that differ most, the most different first.
        notes: what its classes needed of the data set, where that differs from the first model.
    """

    model: Mapping[str, Any]
    settings: Mapping[str, Any]
    detections: int
    metrics: Mapping[str, float]
    classes: tuple[ClassMetrics, ...]
    images: tuple[ComparedImage, ...]
    shown: tuple[ShownImage, ...] = ()
    notes: tuple[Note, ...] = ()

    @property
    def claim(self) -> Claim:
        """What the settings of its file rest on."""
        return claim_of(self.model.get("metadata", {}), None)
