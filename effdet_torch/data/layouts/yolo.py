"""YOLO text files: images/ and labels/, one line `class x y width height` per object, as shares of the image's sides.

Class k of the files is category k + 1. A picture without a label file has no objects. Boxes refer to the picture as
viewers show it, after its EXIF orientation.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from effdet_torch.data import values
from effdet_torch.data.dataset import RawData
from effdet_torch.data.files import IMAGE_SUFFIXES, listed_once, read_header, read_lines
from effdet_torch.data.rules import Findings
from effdet_torch.errors import EvaluationError, listed
from effdet_torch.untrusted.documents import parse_yaml
from effdet_torch.untrusted.files import MAX_YAML_BYTES, read_text, reason_of

SPLITS = ("val", "test", "train")
YAML_NAMES = ("data.yaml", "data.yml", "dataset.yaml")
NAME_LISTS = ("classes.txt", "obj.names", "labels/classes.txt")


def yolo_file(path: Path, name: str | None = None) -> RawData:
    """Read the data set that a data.yaml describes.

    Raises:
        EvaluationError: The file, a label file or the split cannot be read.
    """
    described, splits = _described(path), yolo_splits(path)
    names = described["names"]
    count = described.get("nc", len(names))
    if count != len(names):
        raise EvaluationError(f"{path}: nc is {count}, and there are {len(names)} names; correct the file")
    chosen = next(iter(splits), SPLITS[0]) if name is None else name
    if not described.get(chosen):
        raise EvaluationError(f"{path} has no split {chosen!r}; choose a --split of {listed(splits) or 'none'}")
    images = _images(path, described, chosen)
    return _read(chosen, path, images, dict(enumerate(names)) if isinstance(names, list) else names)


def yolo_folder(folder: Path, name: str | None = None) -> RawData:
    """Read a folder with a data.yaml, or with images/, labels/ and a list of names (classes.txt)."""
    described = _description(folder)
    if described is not None:
        return yolo_file(described, name)
    listing = next((folder / x for x in NAME_LISTS if (folder / x).is_file()), None)
    if listing is None:
        raise EvaluationError(f"{folder} has no names of classes: expected {listed((YAML_NAMES[0], *NAME_LISTS))}")
    name = name or next(iter(yolo_splits(folder)), None)
    images = _listed_images(folder / "images" / name if name else folder / "images")
    return _read(name or folder.name, folder, images, dict(enumerate(read_lines(listing))))


def yolo_splits(path: Path) -> list[str]:
    """Return the splits of a data.yaml, or of a folder."""
    described = path if path.is_file() else _description(path)
    if described is not None:
        content = _described(described)
        return [split for split in SPLITS if content.get(split)]
    return [split for split in SPLITS if (path / "images" / split).is_dir()]


def _description(folder: Path) -> Path | None:
    return next((folder / x for x in YAML_NAMES if (folder / x).is_file()), None)


def _described(path: Path) -> dict[str, Any]:
    """Return the content of a data.yaml."""
    try:
        described = parse_yaml(read_text(path, MAX_YAML_BYTES))
    except OSError as error:
        raise EvaluationError(f"{path} cannot be read: {reason_of(error)}") from error
    except ValueError as error:
        raise EvaluationError(f"{path} cannot be read as YAML: {error}") from error
    if not isinstance(described, dict) or not isinstance(described.get("names"), dict | list):
        raise EvaluationError(f"{path} does not describe a data set: expected names, and val: the folder of images")
    return described


def _images(path: Path, described: dict[str, Any], split: str) -> list[Path]:
    """Return the images of a split: of folders, or of text files that list them."""
    given = described[split]
    root, found = path.parent / str(described.get("path") or ""), list[Path]()
    for entry in given if isinstance(given, list) else [given]:
        # Exporters write ../valid/images or /content/data/valid/images into a file that is beside valid/.
        parts = [part for part in str(entry).replace("\\", "/").split("/") if part.strip(". ")]
        shorter = (path.parent.joinpath(*parts[start:]) for start in range(len(parts)))
        places = (root / str(entry), path.parent / str(entry), *shorter)
        place = next((x for x in places if x.exists()), None)
        if place is None:
            raise EvaluationError(f"{path}: the folder {entry} of {split} does not exist; correct the file")
        found += _listed_images(place)
    return found


def _listed_images(place: Path) -> list[Path]:
    if place.is_dir():
        return sorted(x for x in place.rglob("*") if x.suffix.lower() in IMAGE_SUFFIXES and x.is_file())
    if not place.is_file():
        raise EvaluationError(f"{place} does not exist; expected a folder of images")
    return [place.parent / line for line in read_lines(place)]


def _read(name: str, path: Path, images: list[Path], names: dict[Any, Any]) -> RawData:
    found, entries, annotations = Findings(path.name), list[dict[str, Any]](), list[dict[str, Any]]()
    paths = [Path(x) for x in listed_once(map(str, images), found)]
    for image_id, image in zip(values.image_ids([x.stem for x in paths]), paths, strict=True):
        width, height = _size(image) or (None, None)
        entries.append({"id": image_id, "file_name": image.name, "path": image, "width": width, "height": height})
        objects = list(_objects(label_file(image), found))
        if width is not None and height is not None:
            annotations += (_annotation(item, image_id, width, height) for item in objects)
    categories = [{"id": _number(number), "name": str(text)} for number, text in names.items()]
    content = {"images": entries, "categories": categories, "annotations": annotations}
    return RawData(name, path, path.parent, content, found, numbering="order", upright=True, has_ids=False)


def _size(image: Path) -> tuple[int, int] | None:
    """Return (width, height) as viewers show it; None for a file that is reported later."""
    try:
        return read_header(image).upright_size
    except EvaluationError:
        return None


def _number(number: Any) -> int | None:
    found = values.key(number)
    return found + 1 if isinstance(found, int) else None


def label_file(image: Path) -> Path:
    """Return where the labels of an image are: the last folder `images` of its path is `labels` there."""
    parts = list(image.parts)
    if "images" in parts[:-1]:
        last = len(parts) - 2 - parts[-2::-1].index("images")
        parts[last] = "labels"
    return Path(*parts).with_suffix(".txt")


def _objects(path: Path, found: Findings) -> Iterator[tuple[int, list[float]]]:
    """Yield class and corners, [xmin, ymin, xmax, ymax] as shares of the sides."""
    for position, line in enumerate(read_lines(path) if path.is_file() else (), start=1):
        texts = line.split()
        numbers = [values.number(text) for text in texts]
        shares = [x for x in numbers[1:] if x is not None and -values.ROUNDING <= x <= 1 + values.ROUNDING]
        is_box, is_polygon = len(texts) == 5, len(texts) >= 7 and len(texts) % 2 == 1
        kind = values.key(numbers[0])
        if not isinstance(kind, int) or not (is_box or is_polygon) or None in numbers:
            found.add("object damaged", f"{path.name}, line {position}: {line[:60]}")
        elif len(shares) != len(texts) - 1:
            found.add("share outside", f"{path.name}, line {position}: {line[:60]}")
        elif is_box:
            x, y, width, height = shares
            yield kind, [x - width / 2, y - height / 2, x + width / 2, y + height / 2]
        else:
            found.add("polygon", f"{path.name}, line {position}")
            yield kind, [min(shares[::2]), min(shares[1::2]), max(shares[::2]), max(shares[1::2])]


def _annotation(item: tuple[int, list[float]], image_id: int, width: int, height: int) -> dict[str, Any]:
    kind, (left, top, right, bottom) = item
    box = [left * width, top * height, (right - left) * width, (bottom - top) * height]
    area = max(box[2], 0) * max(box[3], 0)
    shape = {"bbox": box, "area": area, "iscrowd": 0, "segmentation": []}
    return {"image_id": image_id, "category_id": kind + 1, **shape}
