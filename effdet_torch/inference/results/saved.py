"""What was found in one image, as files that other tools read: drawings, JSON, tables and annotations."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, SubElement, indent, tostring  # written here, not read

from PIL import Image

from effdet_torch.errors import OutputError, UsageError
from effdet_torch.inference.results.detections import Detection, Detections
from effdet_torch.outputs.atomic import replacing
from effdet_torch.untrusted.text import printable

PICTURES: Mapping[str, Mapping[str, Any]] = {
    ".png": {"format": "PNG"},
    ".jpg": {"format": "JPEG", "quality": 92, "subsampling": 0},
    ".jpeg": {"format": "JPEG", "quality": 92, "subsampling": 0},
}


def save_picture(picture: Image.Image, path: Path) -> None:
    """Write an image file completely or not at all; folders are created.

    Raises:
        OutputError: The file cannot be written.
    """
    content = io.BytesIO()
    try:
        picture.save(content, **PICTURES[path.suffix.lower()])
    except OSError as error:  # JPEG has at most 65535 pixels a side
        raise OutputError(
            f"{path} cannot hold a picture of {picture.width} x {picture.height} pixels: {error}"
        ) from error
    _write(path, content.getvalue())


def save_text(found: Detections, path: Path) -> None:
    """Write a file in the form of its suffix, see `ImageDetections.save`.

    Raises:
        UsageError: The suffix is another one.
        OutputError: The file cannot be written.
    """
    text = TEXTS.get(path.suffix.lower())
    if text is None:
        raise UsageError(f"{path}: expected one of the suffixes {', '.join((*PICTURES, *TEXTS))}")
    _write(path, text(found).encode(errors="backslashreplace"))  # half a surrogate pair has no encoding


def _write(path: Path, content: bytes) -> None:
    if "\0" in str(path):
        raise OutputError(f"{path} cannot be written: a null byte in its name; choose another name")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror}; choose another folder") from error
    with replacing(path) as stream:
        stream.write(content)


def json_text(found: Detections) -> str:
    """Return a list of objects, see `ImageDetections.to_json`."""
    return json.dumps([detection._asdict() for detection in found])


def csv_text(found: Detections) -> str:
    """Return a table, see `ImageDetections.to_csv`."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["name", "score", "xmin", "ymin", "xmax", "ymax", "category_id"])
    writer.writerows([name, score, *box, category_id] for name, score, box, category_id in found)
    return text.getvalue()


def yolo_text(found: Detections, scores: bool = False) -> str:
    """Return lines of a label file, see `ImageDetections.to_yolo`."""
    height, width = _size(found, "to_yolo")
    lines = []
    for detection, (left, top, right, bottom) in _cut(found, height, width):
        centre = (left + right) / 2 / width, (top + bottom) / 2 / height
        numbers = (*centre, (right - left) / width, (bottom - top) / height, *((detection.score,) if scores else ()))
        lines.append(f"{detection.category_id - 1} {' '.join(f'{number:.6f}' for number in numbers)}\n")
    return "".join(lines)


def voc_text(found: Detections) -> str:
    """Return an annotation file, see `ImageDetections.to_voc`."""
    height, width = _size(found, "to_voc")
    root = Element("annotation")
    if isinstance(found.source, (str, Path)):
        SubElement(root, "filename").text = printable(Path(found.source).name)
    size = SubElement(root, "size")
    for name, number in (("width", width), ("height", height), ("depth", 3)):
        SubElement(size, name).text = str(number)
    for detection, box in _cut(found, height, width):
        item = SubElement(root, "object")
        SubElement(item, "name").text = printable(detection.name)
        SubElement(item, "difficult").text = "0"
        sides = SubElement(item, "bndbox")
        (left, right), (top, bottom) = _whole(box[0], box[2]), _whole(box[1], box[3])
        for name, side in zip(("xmin", "ymin", "xmax", "ymax"), (left, top, right, bottom), strict=True):
            SubElement(sides, name).text = str(side)
    indent(root)
    return tostring(root, encoding="unicode") + "\n"


def _whole(low: float, high: float) -> tuple[int, int]:
    """Return the ends of a side in whole pixels, at least one apart."""
    ends = round(low), round(high)
    return ends if ends[0] < ends[1] else (math.floor(low), math.ceil(high))


def _size(found: Detections, method: str) -> tuple[int, int]:
    if found.size is None:
        raise UsageError(f"{method} needs the image's size; pass it: dataclasses.replace(found, size=(height, width))")
    return found.size


def _cut(found: Detections, height: int, width: int) -> Iterator[tuple[Detection, tuple[float, ...]]]:
    """Yield every detection with the part of its box that is inside of the image, if there is one."""
    for detection in found:
        left, top, right, bottom = detection.box_xyxy
        inside = max(left, 0.0), max(top, 0.0), min(right, float(width)), min(bottom, float(height))
        if inside[0] < inside[2] and inside[1] < inside[3]:
            yield detection, inside


TEXTS: Mapping[str, Callable[[Detections], str]] = {
    ".json": json_text,
    ".csv": csv_text,
    ".txt": yolo_text,
    ".xml": voc_text,
}
