"""PASCAL VOC: one XML file for every image, in Annotations/ beside JPEGImages/, or beside the images.

Boxes are taken as written, (xmin, ymin, xmax - xmin, ymax - ymin), as in the official conversion of VOC
(`create_pascal_tfrecord`); objects marked difficult count like all others, also as there.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn
from xml.etree.ElementTree import Element, TreeBuilder  # only the tree; expat parses, with entities refused
from xml.parsers import expat

from effdet_torch.data import values
from effdet_torch.data.dataset import RawData
from effdet_torch.data.files import IMAGE_SUFFIXES, listed_once, read_lines
from effdet_torch.data.rules import Findings
from effdet_torch.errors import EvaluationError, listed
from effdet_torch.untrusted.files import MAX_TEXT_BYTES, read_bytes

SPLITS = ("val", "valid", "test")
SIDES = ("xmin", "ymin", "xmax", "ymax")


def voc_folder(folder: Path, name: str | None = None) -> RawData:
    """Read VOC's layout.

    Args:
        folder: with Annotations/, JPEGImages/ and perhaps ImageSets/Main/; or with XML files beside images.
        name: of the list in ImageSets/Main; by default val, then test; without lists all images, or a folder.

    Raises:
        EvaluationError: The list does not exist, or a file is not readable or not safe.
    """
    folder = _folder_of(folder, name)
    annotations, images = _first_folder(folder, "Annotations"), _first_folder(folder, "JPEGImages", "images")
    found, files = Findings(folder.name), {path.stem: path for path in sorted(annotations.glob("*.xml"))}
    name, listing = _stems(folder, files, name)
    stems = listed_once(listing, found)
    found.add_all("image without annotation file", (stem for stem in stems if stem not in files))
    pictures = {path.stem: path for path in sorted(images.iterdir()) if path.suffix.lower() in IMAGE_SUFFIXES}
    roots = [(stem, read_xml(files[stem])) for stem in stems if stem in files]
    ids = dict(zip((stem for stem, _ in roots), values.image_ids([stem for stem, _ in roots]), strict=True))
    objects = [entry for stem, root in roots for entry in _objects(root, ids[stem], stem, found)]
    names = sorted({entry["category_id"] for entry in objects})
    numbers = {category: number for number, category in enumerate(names, start=1)}
    content = {
        "images": [_image(root, ids[stem], pictures.get(stem), stem) for stem, root in roots],
        "categories": [{"id": number, "name": category} for category, number in numbers.items()],
        "annotations": [entry | {"category_id": numbers[entry["category_id"]]} for entry in objects],
    }
    return RawData(name, folder, images, content, found, numbering="names", has_ids=False)


def voc_splits(folder: Path) -> list[str]:
    """Return the lists in ImageSets/Main, or the folders below with XML files."""
    return sorted(_lists(folder)) or sorted({x.parent.name for x in folder.glob("*/*.xml")} - {"Annotations"})


def _lists(folder: Path) -> dict[str, Path]:
    return {path.stem: path for path in sorted((folder / "ImageSets" / "Main").glob("*.txt"))}


def read_xml(path: Path) -> Element:
    """Read an XML file that somebody else wrote: one with a document type or entities is refused.

    Raises:
        EvaluationError: The file cannot be read, is not XML, or is not safe.
    """
    builder, parser = TreeBuilder(), expat.ParserCreate()

    def refuse(*_: Any) -> NoReturn:
        raise EvaluationError(f"{path} has a document type or entities, which no annotation needs: remove them")

    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    for handler in ("StartDoctypeDeclHandler", "EntityDeclHandler", "ExternalEntityRefHandler"):
        setattr(parser, handler, refuse)
    try:
        parser.Parse(read_bytes(path, MAX_TEXT_BYTES), True)
    except (OSError, expat.ExpatError, ValueError) as error:
        raise EvaluationError(f"{path} cannot be read as XML: {error}; export the annotations again") from error
    return builder.close()


def _stems(folder: Path, files: dict[str, Path], name: str | None) -> tuple[str, list[str]]:
    """Return the name of the split and its images."""
    lists = _lists(folder)
    chosen = name or next((split for split in SPLITS if split in lists), None)
    if chosen in lists:
        lines = [line.split() for line in read_lines(lists[chosen])]
        # Lists of one class have a second column: -1 if the image has none of it.
        return chosen, [" ".join(x[:-1] if len(x) > 1 and x[-1] in ("-1", "0", "1") else x) for x in lines]
    if lists or (name is not None and folder.name != name):
        choice = f"choose a --split of: {listed(lists)}" if lists else "it has no lists: leave --split out"
        raise EvaluationError(f"{folder} has no list ImageSets/Main/{name or SPLITS[0]}.txt; {choice}")
    return folder.name, list(files)


def _folder_of(folder: Path, name: str | None) -> Path:
    """Return the folder of a split where every split has its own."""
    if (folder / "Annotations").is_dir() or next(folder.glob("*.xml"), None):
        return folder
    names = (name,) if name else SPLITS
    return next((folder / x for x in names if (folder / x).is_dir()), folder)


def _first_folder(folder: Path, *names: str) -> Path:
    return next((folder / name for name in names if (folder / name).is_dir()), folder)


def _image(root: Element, image_id: int, picture: Path | None, stem: str) -> dict[str, Any]:
    # The name that the file states is often that of another computer, or of the image before it was renamed.
    stated = (root.findtext("filename") or "").strip() or f"{stem}.jpg"
    width, height = values.size(root.findtext("size/width"), root.findtext("size/height")) or (None, None)
    name = {"file_name": stated} if picture is None else {"file_name": picture.name, "path": picture}
    return {"id": image_id, "width": width, "height": height, **name}


def _objects(root: Element, image_id: int, stem: str, found: Findings) -> Iterator[dict[str, Any]]:
    for item in root.findall("object"):  # not its parts
        name = (item.findtext("name") or "").strip()
        box = values.box([item.findtext(f"bndbox/{side}") for side in SIDES])
        if not name or box is None:
            found.add("object damaged", f"{stem}.xml: {name or 'no name'}, bndbox of four numbers expected")
            continue
        if (item.findtext("difficult") or "0").strip() == "1":
            found.add("object difficult", f"{stem}.xml: {name}")
        size = (box[2] - box[0], box[3] - box[1])
        shape = {"bbox": [*box[:2], *size], "area": max(size[0], 0) * max(size[1], 0), "segmentation": []}
        yield {"image_id": image_id, "category_id": name, "iscrowd": 0, **shape}
