"""Open Images: boxes in SPLIT-annotations-bbox.csv, names of classes beside it, and a folder of images per split.

Boxes are shares of the image's sides; a group of objects (IsGroupOf) is a crowd. The images are those of the folder:
people download a part. Files about whole images are not read. Source: the description of the data on its web site.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from effdet_torch.data import values
from effdet_torch.data.dataset import RawData
from effdet_torch.data.files import IMAGE_SUFFIXES, read_header
from effdet_torch.data.layouts.split_names import VALIDATION, pick
from effdet_torch.data.rules import Findings
from effdet_torch.errors import EvaluationError, listed
from effdet_torch.untrusted.files import MAX_CSV_BYTES, reason_of, require_regular

ENDING = "-annotations-bbox.csv"
FOLDERS = ("", "annotations/")
SIGNS = tuple(f"{folder}*{ENDING}" for folder in FOLDERS)
DESCRIPTIONS = "*class-descriptions*boxable*.csv"
SIDES = ("XMin", "YMin", "XMax", "YMax")
COLUMNS = ("ImageID", "LabelName", *SIDES)
GROUP = "IsGroupOf"


def open_images_folder(folder: Path, name: str | None = None) -> RawData:
    """Read a split.

    Raises:
        EvaluationError: There is no such split, or a file is missing or damaged.
    """
    files = _files(folder)
    chosen = name or pick(files, VALIDATION) or next(iter(files))
    if chosen not in files:
        raise EvaluationError(f"{folder} has no {chosen}{ENDING}; choose a --split of {listed(files)}")
    return open_images_file(files[chosen], chosen)


def open_images_file(path: Path, name: str | None = None) -> RawData:
    """Read the boxes in one file, and the images in the folder of its split.

    Raises:
        EvaluationError: A file is missing or damaged.
    """
    name = name or path.name.removesuffix(ENDING)
    found, folder = Findings(path.name), _image_folder(path, name)
    pictures = {x.stem: x for x in sorted(folder.iterdir()) if x.suffix.lower() in IMAGE_SUFFIXES}
    ids = dict(zip(pictures, values.image_ids(list(pictures)), strict=True))
    sizes = {stem: _size(picture) for stem, picture in pictures.items()}
    classes = _classes(path)
    content = {
        "images": [
            {"id": ids[stem], "file_name": picture.name, "path": picture, **_sides(sizes[stem])}
            for stem, picture in pictures.items()
        ],
        "categories": [{"id": number, "name": text} for number, text in classes.values()],
        # One after another: the training images of all classes have 14 million.
        "annotations": _annotations(path, ids, sizes, {key: number for key, (number, _) in classes.items()}, found),
    }
    return RawData(name, path, folder, content, found, numbering="order", has_ids=False)


def open_images_splits(folder: Path) -> list[str]:
    """Return the splits that have boxes."""
    return list(_files(folder))


def _files(folder: Path) -> dict[str, Path]:
    return {path.name.removesuffix(ENDING): path for sign in SIGNS for path in sorted(folder.glob(sign))}


def _image_folder(path: Path, split: str) -> Path:
    """Return the folder of images: called like the split, or like the last word of it (oidv6-train)."""
    roots = (path.parent, path.parent / "images", path.parent.parent, path.parent.parent / "images")
    places = [root / name for name in dict.fromkeys((split, split.rpartition("-")[2])) for root in roots]
    found = next((place for place in places if place.is_dir()), None)
    if found is None:
        raise EvaluationError(f"the folder of the images of {path} is missing; expected {places[0]}")
    return found / "data" if (found / "data").is_dir() else found


def _classes(path: Path) -> dict[str, tuple[int, str]]:
    """Return {LabelName: (number in the order of the file, name)}."""
    files = [x for root in (path.parent, path.parent.parent / "metadata") for x in sorted(root.glob(DESCRIPTIONS))]
    if not files:
        raise EvaluationError(f"{path.parent} has no class-descriptions-boxable.csv, the names of the classes: add it")
    rows = [row for _, row in _rows(files[0]) if len(row) == 2 and row[0] != "LabelName"]
    return {key: (number, text) for number, (key, text) in enumerate(dict(rows).items(), start=1)}


def _annotations(
    path: Path,
    ids: Mapping[str, int],
    sizes: Mapping[str, tuple[int, int] | None],
    classes: Mapping[str, int],
    found: Findings,
) -> Iterator[dict[str, Any]]:
    rows = _rows(path)
    _, header = next(rows, (0, []))
    if missing := [column for column in COLUMNS if column not in header]:
        raise EvaluationError(f"{path} has no column {missing[0]}; expected those of Open Images: {', '.join(COLUMNS)}")
    image, label, *sides = (header.index(column) for column in COLUMNS)
    group = header.index(GROUP) if GROUP in header else None
    for line, row in rows:
        if len(row) != len(header):
            found.add("object damaged", f"line {line}: {len(row)} values, and {len(header)} columns")
            continue
        size = sizes.get(row[image])
        if size is None:
            if row[image] not in ids:
                found.add("object of another image", row[image])
            continue  # an image that cannot be opened is reported with all of them, later
        corners = [values.number(row[side]) for side in sides]
        shares = [x for x in corners if x is not None and -values.ROUNDING <= x <= 1 + values.ROUNDING]
        if len(shares) < len(sides):
            found.add("object damaged" if None in corners else "share outside", f"line {line}: {','.join(row)[:80]}")
            continue
        left, top, right, bottom = (share * side for share, side in zip(shares, size * 2, strict=True))
        box = [left, top, right - left, bottom - top]
        yield {
            "image_id": ids[row[image]],
            "category_id": classes.get(row[label], row[label]),
            "bbox": box,
            "area": max(box[2], 0) * max(box[3], 0),
            "iscrowd": int(group is not None and row[group] == "1"),
            "segmentation": [],
        }


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield (number of the line, its values)."""
    try:
        require_regular(path, MAX_CSV_BYTES)
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.reader(stream)
            for row in reader:
                yield reader.line_num, row
    except OSError as error:
        raise EvaluationError(f"{path} cannot be read: {reason_of(error)}") from error
    except (csv.Error, ValueError) as error:
        raise EvaluationError(f"{path} cannot be read as CSV: {error}; download it again") from error


def _size(picture: Path) -> tuple[int, int] | None:
    try:
        return read_header(picture).size
    except EvaluationError:
        return None


def _sides(size: tuple[int, int] | None) -> dict[str, int]:
    return {} if size is None else {"width": size[0], "height": size[1]}
