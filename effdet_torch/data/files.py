"""The image files of a data set: where they are, and whether they are what the annotations say."""

from __future__ import annotations

import glob
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from effdet_torch.data.dataset import DataImage, DataSet
from effdet_torch.data.plausible import look_at_boxes
from effdet_torch.data.rules import Findings
from effdet_torch.errors import EvaluationError
from effdet_torch.untrusted.files import MAX_IMAGE_BYTES, FilePart, open_bytes, read_text

# What is taken from a folder; a file that is named is read whatever its suffix.
IMAGE_SUFFIXES = frozenset(
    {".avif", ".bmp", ".gif", ".jfif", ".jp2", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"}
)
MAX_CONTRADICTED_SHARE = 0.01
ORIENTATION = 0x112  # EXIF tag; 1 is upright, 5 to 8 exchange width and height


@dataclass(frozen=True)
class Header:
    """What the first bytes of an image file say.

    Attributes:
        size: (width, height) as stored.
        orientation: EXIF's, 1 to 8.
    """

    size: tuple[int, int]
    orientation: int = 1

    @property
    def upright_size(self) -> tuple[int, int]:
        """(width, height) of the picture after its EXIF orientation."""
        return (self.size[1], self.size[0]) if self.orientation >= 5 else self.size


def read_header(path: Path | FilePart) -> Header:
    """Read size and orientation without decoding the pixels.

    Raises:
        EvaluationError: The file cannot be opened as an image.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about large images and damaged EXIF data
            with open_bytes(path, MAX_IMAGE_BYTES) as file, Image.open(file) as image:
                # Pillow turns TIFF by itself, and decodes a whole PNG to look for EXIF data behind the pixels.
                has_exif = image.format != "TIFF" and (image.format != "PNG" or "exif" in image.info)
                return Header(image.size, _orientation(image) if has_exif else 1)
    except Exception as error:  # damaged bytes can end in any error of a decoder
        reason = error.strerror if isinstance(error, OSError) and error.strerror else "is not an image, or is damaged"
        raise EvaluationError(f"{path.name} {reason}") from error


def _orientation(image: Image.Image) -> int:
    try:
        found = image.getexif().get(ORIENTATION)
    except Exception:  # damaged EXIF data, good pixels
        return 1
    return found if isinstance(found, int) and 1 <= found <= 8 else 1


class ImageFolder:
    """Finds the files of images by the names that a data set gives them.

    Args:
        path: the folder; no name leads out of it.
        found: takes what had to be repaired.
    """

    def __init__(self, path: Path, found: Findings) -> None:
        self._path, self._found = path, found
        self._claimed: dict[Path, tuple[str, bool]] = {}

    def find(self, file_name: str) -> Path:
        """Return the path of an image; where there is no such file, the one where it was expected."""
        parts = [part for part in file_name.replace("\\", "/").split("/") if part.strip(". ") and part[-1] != ":"]
        paths = [self._path.joinpath(*parts[start:]) for start in range(len(parts))] or [self._path / "?"]
        path = next(filter(_is_file, paths), paths[0])
        is_nested = path != paths[0]
        other, was_nested = self._claimed.setdefault(path, ("/".join(parts), is_nested))
        if other != "/".join(parts) and (is_nested or was_nested):
            self._found.add("file_name ambiguous", f"{other} and {file_name}")
        if is_nested:
            self._found.add("file_name nested", file_name)
        if "\\" in file_name and _is_file(path):
            self._found.add("file_name with other slashes", file_name)
        return path


def read_lines(path: Path) -> list[str]:
    """Return the lines of a text file without spaces around them; empty ones are left out.

    Raises:
        EvaluationError: The file cannot be read.
    """
    try:
        lines = read_text(path).splitlines()
    except (OSError, ValueError) as error:
        raise EvaluationError(f"{path} cannot be read as text: {error}; export the data set again") from error
    return [line.strip() for line in lines if line.strip()]


def listed_once(items: Iterable[str], found: Findings) -> list[str]:
    """Return the images of a list, each once."""
    names = list(items)
    once = list(dict.fromkeys(names))
    counts = Counter(names)
    found.add_all("image listed twice", (name for name in once if counts[name] > 1))
    return once


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that no file can have
        return False


def check_images(data: DataSet) -> DataSet:
    """Compare the files with what the data set says of them, before the work begins.

    An image with an EXIF orientation is evaluated in the frame whose size the annotations state. Where both frames
    have that size, the photographs that are decided say which frame is meant.

    Raises:
        EvaluationError: Files are missing or cannot be opened, more than 1 % have another size than annotated, or
            boxes are written in another form.
    """
    found = Findings(data.path.name)
    missing = [image.path for image in data.images if not _is_file(image.path)]
    if missing and len(missing) == len(data.images):
        raise _nothing_found(data, missing[0])
    found.add_all("file missing", (path.name for path in missing))
    headers = dict(_headers(data.images, found))
    found.notes()  # refuses before sizes are compared
    turned = {i for i, header in headers.items() if _turns(header) and data.images[i].size == header.upright_size}
    stored = {i for i, header in headers.items() if _turns(header) and data.images[i].size == header.size}
    open_ones = {i for i, header in headers.items() if header.orientation > 1} - turned - stored
    is_upright = data.upright or bool(turned and not stored)
    turned |= {i for i in open_ones if is_upright}
    names = [image.name for image in data.images]
    found.add_all("photograph turned", (names[i] for i in sorted(turned)))
    found.add_all("photograph as stored", (names[i] for i in sorted(open_ones - turned)))
    frames = [headers[i].upright_size if i in turned else headers[i].size for i in range(len(names))]
    wrong = [i for i, image in enumerate(data.images) if image.size not in (None, frames[i])]
    few = len(wrong) <= MAX_CONTRADICTED_SHARE * len(names)
    found.add_all(
        "image size contradicted" if few else "image sizes contradicted",
        (f"{names[i]} is {_text(frames[i])}, annotated as {_text(data.images[i].size or (0, 0))}" for i in wrong),
    )
    images = (x._replace(size=x.size or frames[i], turned=i in turned) for i, x in enumerate(data.images))
    framed = replace(data, images=tuple(images))
    look_at_boxes(framed, found)
    return framed.with_notes(found)


def _nothing_found(data: DataSet, path: Path) -> EvaluationError:
    """Return that no image is there: not a download that was cut short, but a wrong folder."""
    below = next(path.parent.glob(f"*/{glob.escape(path.name)}"), None)
    place = "check --images, or the place of the data set" if below is None else f"they are in {below.parent}: pass it"
    return EvaluationError(
        f"none of the images of {data.path.name} ({len(data.images)}) is in {path.parent}, for example {path.name}; "
        f"{place}"
    )


def _headers(images: Iterable[DataImage], found: Findings) -> Iterator[tuple[int, Header]]:
    for position, image in enumerate(images):
        if not _is_file(image.path):
            continue
        try:
            yield position, read_header(image.source)
        except EvaluationError as error:
            found.add("file unreadable", error)


def _turns(header: Header) -> bool:
    return header.upright_size != header.size


def _text(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"
