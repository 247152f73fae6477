"""What a data set holds, in numbers, and what of it is worth a word before a training."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from effdet_torch.data.dataset import DataImage, DataObject, DataSet
from effdet_torch.data.rules import Findings, Note

MANY = 100  # boxes; the official code takes fewer, and COCO's metrics take as many detections of an image
SMALLEST_PX = 1.0  # side of a box in the network's input


@dataclass(frozen=True)
class ClassCount:
    """How often a class occurs.

    Attributes:
        label: of the class.
        name: of the class; "" if it has none.
        images: with at least one box of it.
        boxes: of single objects.
        crowds: boxes that stand for several objects.
    """

    label: int
    name: str
    images: int
    boxes: int
    crowds: int


@dataclass(frozen=True)
class Statistics:
    """What a data set holds.

    Attributes:
        split: its name.
        images: how many it has.
        empty: images without a box of a single object.
        boxes: of single objects.
        crowds: boxes that stand for several objects.
        most_boxes: of single objects in one image.
        smallest, median, largest: sizes of images by their area, (width, height) in pixels; None if none is known.
        classes: all classes, by label.
    """

    split: str
    images: int
    empty: int
    boxes: int
    crowds: int
    most_boxes: int
    smallest: tuple[int, int] | None
    median: tuple[int, int] | None
    largest: tuple[int, int] | None
    classes: tuple[ClassCount, ...]


def describe(data: DataSet) -> Statistics:
    """Count what a data set holds."""
    single, crowds = (Counter(x.category_id for x in data.objects if x.is_crowd == flag) for flag in (False, True))
    places = Counter(label for _, label in {(x.image_id, x.category_id) for x in data.objects})
    per_image = _boxes_per_image(data)
    sizes = sorted((x.size for x in data.images if x.size is not None), key=lambda size: size[0] * size[1])
    smallest, median, largest = (sizes[0], sizes[len(sizes) // 2], sizes[-1]) if sizes else (None, None, None)
    return Statistics(
        data.name,
        len(data.images),
        len(data.images) - len(per_image),
        single.total(),
        crowds.total(),
        max(per_image.values(), default=0),
        smallest,
        median,
        largest,
        tuple(ClassCount(x, data.categories[x], places[x], single[x], crowds[x]) for x in sorted(data.categories)),
    )


def training_notes(train: DataSet, image_size: tuple[int, int]) -> tuple[Note, ...]:
    """Return what is worth a word about training images.

    Args:
        train: the training images.
        image_size: (height, width) of the network's input, in pixels.
    """
    found, per_image = Findings(train.path.name), _boxes_per_image(train)
    images = {image.image_id: image for image in train.images}
    found.add_all("image without boxes", (x.name for x in train.images if not per_image[x.image_id]))
    found.add_all("crowd", (images[x.image_id].name for x in train.objects if x.is_crowd))
    found.add_all(
        "image with many boxes",
        (f"{images[image_id].name}: {count}" for image_id, count in per_image.items() if count >= MANY),
    )
    found.add_all("box tiny", _tiny(train.objects, images, image_size))
    found.add_all("image enlarged", (x.name for x in train.images if _scale(x, image_size) >= 2))
    return found.notes()


def _boxes_per_image(data: DataSet) -> Counter[int]:
    return Counter(item.image_id for item in data.objects if not item.is_crowd)


def _tiny(objects: tuple[DataObject, ...], images: dict[int, DataImage], image_size: tuple[int, int]) -> Iterator[str]:
    scales = {image_id: _scale(image, image_size) for image_id, image in images.items()}
    for item in objects:
        scale = scales[item.image_id]
        if scale and min(item.bbox[2:]) * scale < SMALLEST_PX:
            width, height = (f"{side * scale:.2f}" for side in item.bbox[2:])
            yield f"{images[item.image_id].name}: {width} x {height} pixels"


def _scale(image: DataImage, image_size: tuple[int, int]) -> float:
    """Return the scale of an image in the network's input; 0 if its size is not known."""
    if image.size is None:
        return 0.0
    return min(image_size[0] / image.size[1], image_size[1] / image.size[0])
