"""COCO as it is downloaded: ROOT/annotations/instances_SPLIT.json and ROOT/SPLIT/*.jpg.

The split "testdev" has no annotations: its list of images is image_info_test-dev2017.json, its folder test2017.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from effdet_torch.config import EfficientDetConfig
from effdet_torch.errors import EvaluationError, listed

TEST_DEV = "testdev"


@dataclass(frozen=True)
class CocoImage:
    """One image of a split: its id in the annotations and its file."""

    image_id: int
    path: Path


@dataclass(frozen=True)
class CocoSplit:
    """One split of COCO.

    Attributes:
        name: "val2017", "testdev" or any other that follows the layout.
        path: the annotation file.
        dataset: its content: "images", "categories" and, except for testdev, "annotations".
        images: in the order of their ids.
    """

    name: str
    path: Path
    dataset: Mapping[str, Any]
    images: tuple[CocoImage, ...]

    @property
    def image_ids(self) -> list[int]:
        """The ids of the images, ascending."""
        return [image.image_id for image in self.images]

    def first(self, limit: int | None) -> CocoSplit:
        """Return the split with only the `limit` images of the lowest ids; None keeps all."""
        return self if limit is None else replace(self, images=self.images[:limit])


def read_split(root: Path, name: str = "val2017") -> CocoSplit:
    """Read the annotation file of a split.

    Raises:
        EvaluationError: The file is missing, is not in COCO's format, or lists no images.
    """
    test_dev = name == TEST_DEV
    path = root / "annotations" / ("image_info_test-dev2017.json" if test_dev else f"instances_{name}.json")
    dataset = _read_dataset(path, ("images",) if test_dev else ("images", "annotations", "categories"))
    folder = root / ("test2017" if test_dev else name)
    try:
        images = [CocoImage(int(image["id"]), folder / _inside(image["file_name"])) for image in dataset["images"]]
    except (KeyError, TypeError, ValueError) as error:
        raise EvaluationError(f"{path}: an image lacks a usable id or file_name ({error!r})") from error
    if not images:
        raise EvaluationError(f"{path} lists no images; expected at least one")
    return CocoSplit(name, path, dataset, tuple(sorted(images, key=lambda image: image.image_id)))


def _read_dataset(path: Path, keys: tuple[str, ...]) -> dict[str, Any]:
    try:
        dataset = json.loads(path.read_bytes())
    except OSError as error:
        raise EvaluationError(
            f"{path} cannot be read: {error.strerror}. Expected COCO's layout: ROOT/annotations/{path.name} beside the "
            "folder of images"
        ) from error
    except ValueError as error:
        raise EvaluationError(f"{path} is not JSON: {error}; download it again") from error
    for key in keys:
        if not isinstance(dataset, dict) or not isinstance(dataset.get(key), list):
            raise EvaluationError(f"{path} is not a COCO annotation file: it has no list {key!r}")
    return dict(dataset)


def _inside(file_name: str) -> PurePosixPath:
    path = PurePosixPath(file_name)
    if path.is_absolute() or ".." in path.parts:
        raise ValueError(f"file_name {file_name!r} leads out of the folder of images")
    return path


def require_images(split: CocoSplit) -> None:
    """Refuse a split with missing image files before the work begins.

    Raises:
        EvaluationError: Names the missing files.
    """
    missing = [image.path for image in split.images if not image.path.is_file()]
    if missing:
        raise EvaluationError(
            f"{len(missing)} of {len(split.images)} images of {split.path.name} are missing in {missing[0].parent}: "
            f"{listed(path.name for path in missing)}. Download the rest, or evaluate fewer with --limit"
        )


def require_classes(split: CocoSplit, config: EfficientDetConfig) -> None:
    """Refuse annotations that the model cannot predict: category id = class channel + 1.

    Raises:
        EvaluationError: A category id, of the list or of an annotation, is not in 1..num_classes.
    """
    named = {category.get("id") for category in split.dataset.get("categories", ())}
    used = {annotation.get("category_id") for annotation in split.dataset.get("annotations", ())}
    outside = [x for x in named | used if not (isinstance(x, int) and 1 <= x <= config.num_classes)]
    if outside:
        raise EvaluationError(
            f"{split.path.name} has {len(named)} categories, and the ids {listed(sorted(map(str, outside)))} are not "
            f"among the model's 1 to {config.num_classes} (class channel + 1): the model was trained for other classes"
        )
    if unlisted := (used - named if split.dataset.get("annotations") else set()):
        raise EvaluationError(
            f"{split.path.name}: annotations use category ids that its list of categories lacks: "
            f"{listed(sorted(unlisted))}"
        )
