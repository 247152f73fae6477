"""Which data set the user named, and in which layout: recognised by what is there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from effdet_torch.data.clean import clean
from effdet_torch.data.dataset import DataSet, RawData
from effdet_torch.data.layouts import open_images, tfrecord
from effdet_torch.data.layouts.coco import (
    ROBOFLOW_FILE,
    coco_file,
    coco_layout,
    coco_splits,
    roboflow_folder,
    roboflow_splits,
)
from effdet_torch.data.layouts.voc import voc_folder, voc_splits
from effdet_torch.data.layouts.yolo import NAME_LISTS, YAML_NAMES, yolo_file, yolo_folder, yolo_splits
from effdet_torch.errors import EvaluationError, UsageError, listed


class Layout(NamedTuple):
    """A layout of data sets.

    Attributes:
        name: as people call it.
        signs: patterns of files; one match in the folder is enough.
        read: reads (folder, split).
        splits: lists the splits of a folder; none if all of it is one.
    """

    name: str
    signs: tuple[str, ...]
    read: Callable[[Path, str | None], RawData]
    splits: Callable[[Path], list[str]]


LAYOUTS = (
    Layout("Roboflow COCO", (ROBOFLOW_FILE, f"*/{ROBOFLOW_FILE}"), roboflow_folder, roboflow_splits),
    Layout("COCO", ("annotations/instances_*.json", "annotations/image_info_*.json"), coco_layout, coco_splits),
    Layout("YOLO", (*YAML_NAMES, *NAME_LISTS), yolo_folder, yolo_splits),
    Layout(
        "PASCAL VOC",
        ("Annotations/*.xml", *(f"{folder}*.xml" for folder in ("", "train/", "valid/", "val/", "test/"))),
        voc_folder,
        voc_splits,
    ),
    Layout("TFRecord", tfrecord.SIGNS, tfrecord.tfrecord_folder, tfrecord.tfrecord_splits),
    Layout("Open Images", open_images.SIGNS, open_images.open_images_folder, open_images.open_images_splits),
)
# Suffix -> a file that describes or holds a data set.
FILES: Mapping[str, Callable[[Path, str | None], RawData]] = {
    ".yaml": yolo_file,
    ".yml": yolo_file,
    **dict.fromkeys(tfrecord.SUFFIXES, tfrecord.tfrecord_file),
    ".csv": open_images.open_images_file,
}


@dataclass(frozen=True)
class DataSource:
    """A data set as the user named it.

    Attributes:
        coco: COCO's folder.
        annotations: a COCO annotation file, whose images are in the folder `images`.
        images: that folder.
        data: the folder of any layout, or a data.yaml.

    Raises:
        UsageError: Not exactly one data set was named.
    """

    coco: Path | None = None
    annotations: Path | None = None
    images: Path | None = None
    data: Path | None = None

    def __post_init__(self) -> None:
        named = [name for name in ("coco", "annotations", "data") if getattr(self, name) is not None]
        if len(named) != 1:
            found = f"found {' and '.join(f'--{name}' for name in named)}" if named else "found none"
            raise UsageError(f"name one data set, {found}: --coco ROOT, --annotations FILE --images DIR, or --data DIR")
        if self.annotations is not None and self.images is None:
            raise UsageError(f"--annotations {self.annotations} needs --images DIR, the folder of its images")
        if self.annotations is None and self.images is not None:
            raise UsageError(f"--images belongs to --annotations; leave it out with --{named[0]}")

    def read(self, split: str | None = None) -> DataSet:
        """Read and check the data set.

        Args:
            split: by default val2017 in COCO's layout, else what the layout offers: val, valid, test.

        Raises:
            EvaluationError: It cannot be read, or must be refused.
        """
        if self.coco is not None:
            return clean(coco_layout(self.coco, split))
        if self.annotations is not None and self.images is not None:
            if not self.images.is_dir():
                raise EvaluationError(f"--images {self.images} is not a folder; pass the one that holds the images")
            return clean(coco_file(self.annotations, self.images, split))
        return read_data(self.data or Path(), split)


def read_split(root: Path, name: str | None = None) -> DataSet:
    """Read and check a split of COCO in its own layout; see `DataSource.read`."""
    return DataSource(coco=root).read(name)


def _layouts(folder: Path) -> list[Layout]:
    return [layout for layout in LAYOUTS if any(next(folder.glob(sign), None) for sign in layout.signs)]


def read_data(path: Path, split: str | None = None) -> DataSet:
    """Read and check a data set of any layout; see `DataSource.read`."""
    return clean(recognise(path).read(path, split))


def recognise(path: Path) -> Layout:
    """Return the layout of a folder or file.

    Raises:
        EvaluationError: It has none, or several.
    """
    read = FILES.get(path.suffix.lower())
    if read is not None and path.is_file():
        return Layout(path.suffix, (), read, yolo_splits if read is yolo_file else lambda _: [])
    if not path.is_dir():
        what = f"is not a folder or a data set file ({listed(FILES)})" if path.exists() else "does not exist"
        raise EvaluationError(
            f"{path} {what}; pass one; effdet-verify also takes --annotations FILE with --images DIR, for COCO"
        )
    found = _layouts(path)
    if not found:
        above = path.absolute().parent
        place = f"; the folder above is one ({_layouts(above)[0].name}): pass {above}" if _layouts(above) else ""
        expected = "; ".join(f"{layout.name}: {' or '.join(layout.signs)}" for layout in LAYOUTS)
        raise EvaluationError(f"{path} is not a data set of a known layout{place}. Expected in it one of: {expected}")
    if len(found) > 1:
        raise EvaluationError(
            f"{path} is a data set in several layouts ({listed(layout.name for layout in found)}): choose one by its "
            "data.yaml or a folder below; effdet-verify also has --coco ROOT and --annotations FILE --images DIR"
        )
    return found[0]
