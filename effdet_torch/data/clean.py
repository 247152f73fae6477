"""From what a reader found to a checked data set: the rules of `rules` applied to every entry."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from effdet_torch.data import values
from effdet_torch.data.dataset import DataImage, DataObject, DataSet, RawData
from effdet_torch.data.files import ImageFolder
from effdet_torch.data.rules import Findings
from effdet_torch.data.values import Key
from effdet_torch.errors import EvaluationError
from effdet_torch.untrusted.files import FilePart

REQUIRED = ("image_id", "category_id")


def clean(raw: RawData) -> DataSet:
    """Check every entry of a data set, and repair or drop what can be.

    Raises:
        EvaluationError: The data set has no images, or entries that must be refused; names all of them.
    """
    found, content = raw.findings, raw.content
    if not content["images"]:
        raise EvaluationError(f"{raw.path} lists no images; expected at least one")
    images, categories = _images(raw, found), _categories(content.get("categories", ()), found)
    numbers = _numbers(categories)
    counts = Counter(values.key(entry.get("id")) for entry in content["images"] if isinstance(entry, dict))
    merged = {image.image_id for identifier, image in images.items() if counts[identifier] > 1}
    reader = _Objects(images, numbers, found, merged, raw.has_ids)
    data = DataSet(
        raw.name,
        raw.path,
        tuple(sorted(images.values(), key=lambda image: image.image_id)),
        {numbers[identifier]: name for identifier, name in categories.items()},
        tuple(reader.read(content.get("annotations", ()) if raw.has_truth else ())),
        raw.has_truth,
        raw.numbering if all(map(values.is_usual, categories)) else "names",
        raw.upright,
    )
    return require_objects(data.with_notes(found))


def require_objects(data: DataSet) -> DataSet:
    """Return the data set unless it has nothing to find, which has no AP.

    Raises:
        EvaluationError: It has annotations, and none of an object that is not a crowd.
    """
    if data.has_truth and all(item.is_crowd for item in data.objects):
        found = Findings(data.path.name)
        found.add_all("no objects", (image.name for image in data.images))
        found.notes()
    return data


def _images(raw: RawData, found: Findings) -> dict[Key, DataImage]:
    """Return {id as the file has it: image}."""
    entries: dict[Key, Mapping[str, Any]] = {}
    for position, entry in enumerate(raw.content["images"], start=1):
        identifier = _image_id(entry, position, found)
        if identifier is None:
            continue
        first = entries.setdefault(identifier, entry)
        if first is not entry:
            is_same = first["file_name"] == entry["file_name"]
            found.add("image listed twice" if is_same else "image id taken", f"{identifier} ({entry['file_name']})")
    # One id that is not a number would not fit into the results of the others.
    named = [identifier for identifier in entries if not values.is_usual(identifier)]
    found.add_all("image id is a name", named)
    folder, images = ImageFolder(raw.folder, found), {}
    for position, (identifier, entry) in enumerate(entries.items(), start=1):
        image_id = position if named or isinstance(identifier, str) else identifier
        # Readers of other layouts know the file; JSON has no paths.
        known = entry.get("path")
        part = known if isinstance(known, FilePart) else None
        path = part.path if part else known if isinstance(known, Path) else folder.find(entry["file_name"])
        images[identifier] = DataImage(image_id, path, _size(entry, identifier, found), part=part)
    return images


def _image_id(entry: Any, position: int, found: Findings) -> Key | None:
    """Return the id of an entry that can be used; None if something makes it unusable."""
    if not isinstance(entry, dict):
        found.add("image is not an entry", f"number {position}")
        return None
    name, identifier = entry.get("file_name"), values.key(entry.get("id"))
    if identifier is None:
        found.add("image without id", name or f"number {position}")
    elif not isinstance(name, str) or not name.strip():
        found.add("image without file", f"id {identifier}")
    else:
        if isinstance(entry["id"], str) and values.is_usual(identifier):
            found.add("image id as text", repr(entry["id"]))
        return identifier
    return None


def _size(entry: Mapping[str, Any], identifier: Key, found: Findings) -> tuple[int, int] | None:
    sides = entry.get("width"), entry.get("height")
    size = values.size(*sides)
    if size is None:
        found.add("image size missing", identifier)
    elif any(isinstance(side, str) for side in sides):
        found.add("image size as text", identifier)
    return size


def _categories(entries: Any, found: Findings) -> dict[Key, str]:
    """Return {id as the file has it: name}."""
    categories: dict[Key, str] = {}
    for position, entry in enumerate(entries, start=1):
        identifier = values.key(entry.get("id")) if isinstance(entry, dict) else None
        if identifier is None:
            found.add("category is not usable", f"number {position}")
            continue
        if isinstance(entry["id"], str) and values.is_usual(identifier):
            found.add("category id as text", repr(entry["id"]))
        name = "" if entry.get("name") is None else str(entry["name"]).strip()
        if identifier not in categories:
            categories[identifier] = name
        elif categories[identifier] == name:
            found.add("category listed twice", f"{identifier} {name}".strip())
        else:
            found.add("category id taken", f"{identifier} ({categories[identifier]}, {name})")
    found.add_all("category id is a name", (x for x in categories if not values.is_usual(x)))
    return categories


def _numbers(categories: Mapping[Key, str]) -> dict[Key, int]:
    """Return {id as the file has it: number}: its own, unless one of them is not a usual number."""
    if all(map(values.is_usual, categories)):
        return {identifier: int(identifier) for identifier in categories}
    return {identifier: number for number, identifier in enumerate(categories, start=1)}


class _Objects:
    """Reads annotations.

    Args:
        images: {id as the file has it: image}.
        categories: {id as the file has it: number}.
        found: takes the faults.
        merged: ids of images that are listed twice; their objects may be, too.
        has_ids: whether annotations have ids.
    """

    def __init__(
        self,
        images: Mapping[Key, DataImage],
        categories: Mapping[Key, int],
        found: Findings,
        merged: set[int],
        has_ids: bool,
    ) -> None:
        self._images, self._categories, self._found, self._merged = images, categories, found, merged
        self._has_ids = has_ids
        self._ids: dict[Key | None, tuple[Any, ...]] = {}
        self._seen: set[tuple[Any, ...]] = set()

    def read(self, entries: Any) -> Iterator[DataObject]:
        """Yield the objects that are usable."""
        for position, entry in enumerate(entries, start=1):
            if not isinstance(entry, dict):
                self._found.add("annotation is not an entry", f"number {position}")
                continue
            where = f"annotation {entry['id']}" if entry.get("id") is not None else f"annotation number {position}"
            item = self._object(entry, where)
            if item is not None and not self._is_repeated(entry, item, where):
                yield item

    def _object(self, entry: Mapping[str, Any], where: str) -> DataObject | None:
        image, category = (values.key(entry.get(name)) for name in REQUIRED)
        box = self._box(entry, where)
        if image is None or image not in self._images:
            self._found.add("annotation of unknown image", f"{where} (image_id {entry.get('image_id')!r})")
        elif category is None or category not in self._categories:
            self._found.add("annotation of unknown category", f"{where} (category_id {entry.get('category_id')!r})")
        elif box is not None:
            if any(isinstance(entry[name], str) and isinstance(values.key(entry[name]), int) for name in REQUIRED):
                self._found.add("reference as text", where)
            if entry.get("segmentation") is None:
                self._found.add("segmentation missing", where)
            area, is_crowd = self._area(entry, box, where), self._is_crowd(entry, where)
            if values.flag(entry.get("ignore")) and not is_crowd:
                self._found.add("object ignored", where)
            return DataObject(self._images[image].image_id, self._categories[category], box, area, is_crowd)
        return None

    def _box(self, entry: Mapping[str, Any], where: str) -> tuple[float, float, float, float] | None:
        given = entry.get("bbox")
        box = values.box(given)
        if box is None:
            missing = given is None or given == []
            self._found.add(*(("box missing", where) if missing else ("box is not four numbers", f"{where}: {given}")))
        elif min(box[2:]) <= 0:
            self._found.add("box empty", f"{where}: {given}")
            return None
        elif any(isinstance(side, str) for side in given or ()):
            self._found.add("box as text", where)
        return box

    def _area(self, entry: Mapping[str, Any], box: tuple[float, float, float, float], where: str) -> float:
        given = entry.get("area")
        area = values.number(given)
        if area is None or area < 0:
            self._found.add("area missing", where)
            return box[2] * box[3]
        if isinstance(given, str):
            self._found.add("area as text", where)
        return area

    def _is_crowd(self, entry: Mapping[str, Any], where: str) -> bool:
        given = entry.get("iscrowd")
        is_crowd = values.flag(given)
        if given is None:
            self._found.add("iscrowd missing", where)
        elif is_crowd is None:
            self._found.add("iscrowd unknown", f"{where}: {given!r}")
        elif isinstance(given, str | bool):
            self._found.add("iscrowd as text", where)
        return bool(is_crowd)

    def _is_repeated(self, entry: Mapping[str, Any], item: DataObject, where: str) -> bool:
        """Whether an object has been read already: with this id, or in an image that is listed twice, too."""
        identifier, described = values.key(entry.get("id")), item[:3]
        first = self._ids.get(identifier) if self._has_ids else None
        if first == described or described in self._seen:
            self._found.add("annotation listed twice", where)
            return True
        if self._has_ids:
            if first is not None or not values.is_usual(identifier) or identifier == 0 or isinstance(entry["id"], str):
                self._found.add("annotation id", where)
            if identifier is not None:
                self._ids.setdefault(identifier, described)
        if item.image_id in self._merged:
            self._seen.add(described)
        return False
