"""TFRecords as the official tools write them (`create_coco_tfrecord`, `create_pascal_tfrecord`), without TensorFlow.

Every record is an image with its objects; boxes are shares of the image's sides, classes count from 1. The pixels stay
in the file. A split is one file, or many such as train-00000-of-00032.tfrecord; what is before the numbers names it.
A label map beside the files (`label_map.pbtxt`) names the classes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from effdet_torch.data import values
from effdet_torch.data.classes import spelled
from effdet_torch.data.dataset import RawData
from effdet_torch.data.files import read_header
from effdet_torch.data.layouts.example import Example
from effdet_torch.data.layouts.label_map import Label, find_label_map
from effdet_torch.data.layouts.records import read_records
from effdet_torch.data.layouts.split_names import VALIDATION, pick
from effdet_torch.data.rules import Findings
from effdet_torch.errors import EvaluationError, listed
from effdet_torch.untrusted.files import FilePart

SUFFIXES = (".tfrecord", ".tfrecords", ".record")
FOLDERS = ("", "train/", "valid/", "val/", "test/")
SIGNS = tuple(f"{folder}*{kind}*" for folder in FOLDERS for kind in (".tfrecord", ".record"))
RECORDS = re.compile(r".*\.(tfrecords?|record)(-\d+-of-\d+)?")
SHARD = re.compile(r"(?P<name>.*?)-?(?P<number>\d{5})-of-(?P<count>\d{5})")
IMAGE, OBJECT = "image/", "image/object/"
SIDES = ("xmin", "ymin", "xmax", "ymax")


def tfrecord_folder(folder: Path, name: str | None = None) -> RawData:
    """Read the files of a split, in the folder or in one below that has the split's name.

    Raises:
        EvaluationError: There is no such split, a file of it is missing or damaged, or is not of this kind.
    """
    groups = _groups(folder)
    chosen = name or pick(groups, VALIDATION) or (next(iter(groups)) if len(groups) == 1 else None)
    if chosen is None or chosen not in groups:
        raise EvaluationError(f"{folder} has no split {name or VALIDATION[1]!r}; choose a --split of {listed(groups)}")
    return _read(chosen, folder, groups[chosen])


def tfrecord_file(path: Path, name: str | None = None) -> RawData:
    """Read one file; `name` is not needed."""
    return _read(name or path.stem, path, [path])


def tfrecord_splits(folder: Path) -> list[str]:
    """Return the splits of a folder."""
    return list(_groups(folder))


def _groups(folder: Path) -> dict[str, list[Path]]:
    """Return {split: its files}."""
    paths = sorted({path for sign in SIGNS for path in folder.glob(sign) if RECORDS.fullmatch(path.name)})
    groups: dict[str, list[Path]] = {}
    for path in paths:
        shard = SHARD.match(path.name)
        own = (shard["name"].removesuffix(".record") if shard else path.stem) or folder.name
        groups.setdefault(own if path.parent == folder else path.parent.name, []).append(path)
    return groups


def _require_all(paths: list[Path]) -> None:
    """Refuse a split that lacks files: the rest would be taken for all of it."""
    shards = {path: SHARD.match(path.name) for path in paths}
    for count in {shard["count"] for shard in shards.values() if shard}:
        present = {int(shard["number"]) for shard in shards.values() if shard and shard["count"] == count}
        if missing := sorted(set(range(int(count))) - present):
            raise EvaluationError(
                f"{paths[0].parent} lacks {len(missing)} of the {int(count)} files of {paths[0].name}: "
                f"number {listed(missing)}; copy all of them"
            )


def _read(name: str, path: Path, files: list[Path]) -> RawData:
    _require_all(files)
    reader = _Reader(Findings(path.name))
    for file in files:
        for number, (offset, record) in enumerate(read_records(file), start=1):
            reader.take(FilePart(file, offset, len(record), f"record {number}"), record)
    labels = find_label_map(dict.fromkeys((files[0].parent, path if path.is_dir() else path.parent)))
    return reader.content(name, path, labels)


class _Reader:
    """Collects images and objects.

    Args:
        found: takes the faults.
    """

    def __init__(self, found: Findings) -> None:
        self._found = found
        self._images: list[dict[str, Any]] = []
        self._ids: list[str] = []
        self._objects: list[dict[str, Any]] = []
        self._names: dict[tuple[int, str], None] = {}

    def take(self, place: FilePart, record: memoryview) -> None:
        """Take a record.

        Raises:
            EvaluationError: It is not an image with objects.
        """
        try:
            self._take(place, Example(record))
        except ValueError as error:
            raise EvaluationError(
                f"{place.path}, {place.name}: {error}; write the records with the official tools"
            ) from error

    def _take(self, place: FilePart, example: Example) -> None:
        encoded = example.places(f"{IMAGE}encoded")
        if len(encoded) != 1:
            raise ValueError(f"it has no image/encoded; found {listed(example.names) or 'no features'}")
        size = encoded[0].stop - encoded[0].start
        given = next(iter(example.texts(f"{IMAGE}filename")), "")
        part = FilePart(place.path, place.offset + encoded[0].start, size, PurePosixPath(given).name or place.name)
        sides = [next(iter(example.integers(f"{IMAGE}{side}")), None) for side in ("width", "height")]
        frame = values.size(*sides) or _size(part)
        self._images.append({"file_name": part.name, "path": part, "width": sides[0], "height": sides[1]})
        self._ids.append(next(iter(example.texts(f"{IMAGE}source_id")), ""))
        where = f"{place.path.name}, {place.name}"
        # An image that cannot be opened is reported with all of them, later.
        self._objects += self._annotations(example, frame, where) if frame is not None else ()

    def _annotations(self, example: Example, frame: tuple[int, int], where: str) -> Iterator[dict[str, Any]]:
        corners = [example.floats(f"{OBJECT}bbox/{side}").tolist() for side in SIDES]
        labels, texts = example.integers(f"{OBJECT}class/label"), example.texts(f"{OBJECT}class/text")
        count = len(corners[0])
        extra = {key: example.integers(f"{OBJECT}{key}") or [0] * count for key in ("is_crowd", "difficult")}
        areas = example.floats(f"{OBJECT}area").tolist() or [None] * count
        texts = texts or [""] * count
        columns = (*corners, labels, texts, extra["is_crowd"], extra["difficult"], areas)
        if any(len(column) != count for column in columns):
            sizes = [*map(len, columns)]
            raise ValueError(f"its {count} boxes have lists of other lengths: {sizes} (corners, label, text, ...)")
        for row in zip(*columns, strict=True):
            shares, (label, text, is_crowd, difficult, area) = row[:4], row[4:]
            if not all(-values.ROUNDING <= share <= 1 + values.ROUNDING for share in shares):
                self._found.add("share outside", f"{where}: {[round(x, 3) for x in shares]}")
                continue
            if difficult:
                self._found.add("object difficult", where)
            self._names[label, text] = None
            yield _annotation(shares, frame, area) | {
                "image_id": len(self._images) - 1,
                "category_id": label,
                "iscrowd": is_crowd,
            }

    def content(self, name: str, path: Path, labels: tuple[Path, Mapping[int, Label]] | None) -> RawData:
        """Return what was found.

        Args:
            name: of the split.
            path: of the data set.
            labels: the label map beside it, if there is one.

        Raises:
            EvaluationError: The records and the label map contradict each other.
        """
        numbers = values.image_ids(self._ids)
        images = [{"id": number} | image for number, image in zip(numbers, self._images, strict=True)]
        objects = [item | {"image_id": numbers[item["image_id"]]} for item in self._objects]
        names = sorted(self._names) if labels is None else self._named_by(*labels)
        categories = [{"id": label, "name": text} for label, text in names]
        content = {"images": images, "categories": categories, "annotations": objects}
        return RawData(name, path, path, content, self._found, has_ids=False)

    def _named_by(self, path: Path, labels: Mapping[int, Label]) -> list[tuple[int, str]]:
        """Return (label, name for people) of all classes of a label map."""
        unknown = [f"{number} {text}".strip() for number, text in sorted(self._names) if number not in labels]
        others = [
            f"{number} is {text!r} in the records and {labels[number].shown!r} in the map"
            for number, text in sorted(self._names)
            if number in labels and spelled(text) not in ("", *map(spelled, labels[number]))
        ]
        if unknown or others:
            problem = f"it lacks the classes {listed(unknown)}" if unknown else listed(others, 3)
            if not labels:
                problem = "it has no items"
            raise EvaluationError(
                f"{path} does not belong to the records: {problem}; replace it with the label map that these were "
                "written with, or move it away"
            )
        renamed = (number for number, text in sorted(self._names) if text != labels[number].shown)
        self._found.add_all("class named by label map", (f"{x} {labels[x].shown}" for x in dict.fromkeys(renamed)))
        return [(number, label.shown) for number, label in labels.items()]


def _annotation(shares: tuple[float, ...], frame: tuple[int, int], area: float | None) -> dict[str, Any]:
    left, top, right, bottom = (share * side for share, side in zip(shares, frame * 2, strict=True))
    box = [left, top, right - left, bottom - top]
    return {"bbox": box, "area": max(box[2], 0) * max(box[3], 0) if area is None else area, "segmentation": []}


def _size(part: FilePart) -> tuple[int, int] | None:
    try:
        return read_header(part).size
    except EvaluationError:
        return None
