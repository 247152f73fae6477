"""A data set: images, categories, objects. All layouts become this one, and it becomes what the metrics take."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

from effdet_torch.data.rules import Findings, Note
from effdet_torch.untrusted.files import FilePart

TEST_DEV = "testdev"

# What the ids of categories are worth: stated by the file; the order of a list of names; or names alone.
Numbering = Literal["stated", "order", "names"]


class DataImage(NamedTuple):
    """One image.

    Attributes:
        image_id: its number.
        path: its file.
        size: (width, height) of the frame that boxes refer to; None if the data set does not say.
        turned: whether that frame is the one after the EXIF orientation.
        part: where in that file the image is, if the file holds several.
    """

    image_id: int
    path: Path
    size: tuple[int, int] | None
    turned: bool = False
    part: FilePart | None = None

    @property
    def name(self) -> str:
        """The name of the image."""
        return (self.part or self.path).name

    @property
    def source(self) -> Path | FilePart:
        """What `read_image` takes."""
        return self.part or self.path


class DataObject(NamedTuple):
    """One annotated object.

    Attributes:
        image_id: of its image.
        category_id: of its class.
        bbox: (xmin, ymin, width, height) in pixels.
        area: of its segmentation or box, in pixels.
        is_crowd: whether it stands for several objects, which are neither required nor wrong to find.
    """

    image_id: int
    category_id: int
    bbox: tuple[float, float, float, float]
    area: float
    is_crowd: bool


@dataclass(frozen=True)
class RawData:
    """What a reader found, in the form of a COCO annotation file; nothing of it has been checked.

    Attributes:
        name: of the split.
        path: the annotation file or the folder.
        folder: where the images are.
        content: "images", "categories" and "annotations".
        has_truth: whether there are annotations at all.
        numbering: what the ids of the categories are worth.
        upright: whether boxes refer to the picture after its EXIF orientation where sizes do not decide it.
        findings: what the reader itself found.
        has_ids: whether the layout gives annotations ids.
    """

    name: str
    path: Path
    folder: Path
    content: Mapping[str, Any]
    findings: Findings
    has_truth: bool = True
    numbering: Numbering = "stated"
    upright: bool = False
    has_ids: bool = True


@dataclass(frozen=True)
class DataSet:
    """A checked data set.

    Attributes:
        name: of the split: "val2017", "testdev", ...
        path: the annotation file or the folder.
        images: in the order of their ids.
        categories: {id: name}; "" where a category has no name.
        objects: in the order of the file.
        has_truth: whether there are annotations at all.
        numbering: what the ids of the categories are worth.
        upright: see `RawData`.
        stated_ids: {id: the id that the data set itself gives the category}; empty before they are fitted to a model.
        notes: what was repaired, dropped and assumed.
    """

    name: str
    path: Path
    images: tuple[DataImage, ...]
    categories: Mapping[int, str]
    objects: tuple[DataObject, ...]
    has_truth: bool = True
    numbering: Numbering = "stated"
    upright: bool = False
    stated_ids: Mapping[int, int] = field(default_factory=dict, compare=False)
    notes: tuple[Note, ...] = field(default=(), compare=False)

    @property
    def image_ids(self) -> list[int]:
        """The ids of the images, ascending."""
        return [image.image_id for image in self.images]

    @cached_property
    def dataset(self) -> Mapping[str, Any]:
        """The content as pycocotools takes it; ids of annotations count from 1, because 0 means "not matched" there."""
        images = [{"id": x.image_id, "file_name": x.name, **_sides(x)} for x in self.images]
        categories = [{"id": number, "name": name or f"class {number}"} for number, name in self.categories.items()]
        annotations = [
            {
                "id": number,
                "image_id": x.image_id,
                "category_id": x.category_id,
                "bbox": list(x.bbox),
                "area": x.area,
                "iscrowd": int(x.is_crowd),
            }
            for number, x in enumerate(self.objects, start=1)
        ]
        return {"images": images, "categories": categories, "annotations": annotations}

    @cached_property
    def checksum(self) -> str:
        """SHA-256 of the annotation file; of the content where there are many files."""
        content = self.path.read_bytes() if self.path.is_file() else json.dumps(self.dataset).encode()
        return hashlib.sha256(content).hexdigest()

    def first(self, limit: int | None) -> DataSet:
        """Return the data set with only the `limit` images of the lowest ids; None keeps all."""
        if limit is None or limit >= len(self.images):
            return self
        return self.only({image.image_id for image in self.images[:limit]})

    def only(self, image_ids: Collection[int], **changes: Any) -> DataSet:
        """Return the data set with some of its images, and with other changes."""
        images = tuple(image for image in self.images if image.image_id in image_ids)
        objects = tuple(item for item in self.objects if item.image_id in image_ids)
        return replace(self, images=images, objects=objects, **changes)

    def with_notes(self, found: Findings, **changes: Any) -> DataSet:
        """Return the data set with changes and with what they repaired or dropped.

        Raises:
            EvaluationError: Something must be refused.
        """
        return replace(self, notes=(*self.notes, *found.notes()), **changes)


def _sides(image: DataImage) -> dict[str, int]:
    return {} if image.size is None else dict(zip(("width", "height"), image.size, strict=True))
