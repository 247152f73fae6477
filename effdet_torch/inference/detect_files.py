"""Detect objects in image files: what `effdet-detect` does."""

from __future__ import annotations

import glob
import logging
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from PIL import Image

from effdet_torch.data.files import IMAGE_SUFFIXES
from effdet_torch.errors import UsageError, listed
from effdet_torch.file_format import sha256
from effdet_torch.inference.detections import FileDetections
from effdet_torch.inference.images import ImageError
from effdet_torch.inference.partial_results import NOTHING_KEPT, PartialResults
from effdet_torch.inference.predict import Predictor
from effdet_torch.inference.results import ImageDetections
from effdet_torch.inference.saved_results import save_picture
from effdet_torch.inference.visualize import draw_detections
from effdet_torch.outputs import NO_FILES, RunFiles, is_folder

LOG = logging.getLogger("effdet")
DRAWN_SUFFIXES = frozenset({".jpeg", ".jpg", ".png"})
COCO_FILE_NAME = re.compile(r"(?:COCO_\w+_)?(\d{12})\.\w+")


def find_images(names: Sequence[str]) -> list[Path]:
    """Return the image files that files, folders and glob patterns stand for, each once.

    A folder stands for its images (by suffix, sorted, not those in folders below); a pattern for what it matches,
    sorted, as in a shell; `**` also matches folders in folders.

    Raises:
        UsageError: None of them exists, or a pattern is malformed.
    """
    if urls := [name for name in names if "://" in name]:
        raise UsageError(f"{urls[0]} is a URL; download it first, and pass the file")
    paths = [path for name in names for match in _matches(name) for path in _files_of(match)]
    if not any(map(_may_exist, paths)):
        raise UsageError(f"no image found: {listed(names)}; pass files, folders of images, or quoted patterns")
    return list(dict.fromkeys(paths))


def left_out(names: Sequence[str]) -> Counter[str]:
    """Return the suffixes of the files in the folders of `find_images` that are not images, and how many have them."""
    folders = {match for name in names for match in _matches(name) if is_folder(match)}
    files = (file for folder in folders for file in folder.iterdir() if not file.name.startswith("."))
    return Counter(file.suffix.lower() for file in files if not _is_image(file) and not is_folder(file))


def _matches(name: str) -> list[Path]:
    path = Path(name)
    if _may_exist(path) or not glob.has_magic(name):
        return [path]
    first = next(place for place, part in enumerate(path.parts) if glob.has_magic(part))
    folder, pattern = Path(*path.parts[:first]), Path(*path.parts[first:])
    try:  # not `glob.glob`, which goes round and round where a link leads to a folder above
        found = sorted(folder.glob(str(pattern)))
    except ValueError as error:
        raise UsageError(f"{name} is not a pattern: {error}") from error
    if not _has_hidden(pattern):  # as in a shell, a pattern means hidden files only where it names one
        found = [match for match in found if not _has_hidden(match.relative_to(folder))]
    # A pattern without a match is kept, and reported as a file that does not exist.
    return found or [path]


def _may_exist(path: Path) -> bool:
    """Return whether a path exists, or cannot be reached, which is reported when it is read."""
    try:
        return path.exists()
    except OSError:
        return True


def _has_hidden(path: Path) -> bool:
    return any(part.startswith(".") and part != ".." for part in path.parts)


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES and not is_folder(path)  # what cannot be read is reported


def _files_of(path: Path) -> list[Path]:
    return sorted(filter(_is_image, path.iterdir())) if is_folder(path) else [path]


def image_id(path: Path) -> int | str:
    """Return the id of an image in a COCO results file: the number in a COCO file name, else the file name."""
    match = COCO_FILE_NAME.fullmatch(path.name)
    return int(match[1]) if match else path.name


def require_unique_ids(paths: Iterable[Path]) -> None:
    """Refuse files that a COCO results file could not tell apart.

    Raises:
        UsageError: Two files have the same id.
    """
    known: dict[int | str, Path] = {}
    for path in paths:
        other = known.setdefault(image_id(path), path)
        if other != path:
            raise UsageError(
                f"{other} and {path} would both be image {image_id(path)!r} in the JSON file; "
                "run the folders one by one"
            )


def drawing_paths(paths: Sequence[Path], folder: Path) -> list[Path]:
    """Return where the drawn images go: laid out as below the images' common folder, PNG unless JPEG.

    Where `a.webp` lies beside `a.webp.png`, which keeps its name, the first becomes `a.webp.png.png`.

    Raises:
        OverwriteError: A drawn image would replace an original.
    """
    sources = [Path(os.path.realpath(path.parent), path.name) for path in paths]
    common = os.path.commonpath([path.parent for path in sources])
    targets, taken = dict[Path, Path](), set[Path]()
    for source in sorted(set(sources), key=lambda path: (path.suffix.lower() not in DRAWN_SUFFIXES, path)):
        target = folder / os.path.relpath(source, common)
        while target.suffix.lower() not in DRAWN_SUFFIXES or target in taken:
            target = target.with_name(f"{target.name}.png")
        targets[source] = target
        taken.add(target)
    RunFiles().require_apart(paths, (("the drawing", target) for target in taken))
    return [targets[source] for source in sources]


def detect_files(
    predictor: Predictor,
    paths: Sequence[Path],
    drawing_folder: Path | None = None,
    batch_size: int = 8,
    apply_exif: bool = True,
    kept: PartialResults = NOTHING_KEPT,
    files: RunFiles = NO_FILES,
) -> Iterator[FileDetections]:
    """Detect objects in every file, and draw them; a file that cannot be read is also a result.

    With a segmentation head, the mask is drawn as well, and is a PNG file beside the drawing, see `mask_path`.

    Args:
        predictor: the detector.
        paths: image files.
        drawing_folder: where drawn images go, created if needed; None draws nothing.
        batch_size: how many images are in memory at once, and how many a GPU works on at once.
        apply_exif: see `read_image`; boxes refer to the image as it was read.
        kept: of an interrupted run, see `origin`; what it has, drawings included, is not done again.
        files: what else the run reads and writes.

    Raises:
        OverwriteError: A drawn image or a mask would replace another file of the run.
        OutputError: A drawn image cannot be written.
    """
    targets = [None] * len(paths) if drawing_folder is None else drawing_paths(paths, drawing_folder)
    pictures = [_pictures(target, predictor.config.segments) for target in targets]
    files.require_apart(paths, (row for rows in pictures for row in rows))
    keys = [_key(path) for path in paths]
    is_drawn = [all(picture.is_file() for _, picture in rows) for rows in pictures]
    is_done = [key in kept.done and drawn for key, drawn in zip(keys, is_drawn, strict=True)]
    open_paths = [path for path, done in zip(paths, is_done, strict=True) if not done]
    results = predictor.stream(open_paths, batch_size, apply_exif=apply_exif)
    for path, key, target, done in zip(paths, keys, targets, is_done, strict=True):
        if done:
            entries = kept.done[key]
            yield FileDetections(path, entries, predictor.names_of(entry["category_id"] for entry in entries))
            continue
        result = next(results)
        if isinstance(result, ImageError):
            yield FileDetections(path, error=result)
            continue
        pixels, found = result
        if target is not None:
            if found.mask is not None:
                save_picture(Image.fromarray(found.mask), mask_path(target))
            save_picture(draw_detections(pixels, found), target)
        coco, mask = found.to_coco(image_id(path)), mask_entry(path, found, target)
        kept.add(key, coco)
        yield FileDetections(path, coco, found.names, mask=mask, detects=predictor.config.detects)
    LOG.info("detected objects on %s; images: %d", predictor.device, len(open_paths))


def _pictures(drawing: Path | None, has_mask: bool) -> list[tuple[str, Path]]:
    """Return the pictures that are written for an image, and what they are called in errors."""
    if drawing is None:
        return []
    return [("the drawing", drawing), *([("the mask", mask_path(drawing))] if has_mask else [])]


def mask_path(drawing: Path) -> Path:
    """Return where the mask beside a drawing goes: a grey PNG whose values are the classes of the pixels."""
    return drawing.with_name(f"{drawing.name}.mask.png")


def mask_entry(path: Path, found: ImageDetections, drawing: Path | None) -> dict[str, Any] | None:
    """Return what is told of the mask of an image file, see `FileDetections`; None if there is none."""
    if found.mask is None:
        return None
    name = None if drawing is None else mask_path(drawing).name
    return {"image_id": image_id(path), "mask": name, "shares": found.mask_shares()}


def origin(model: Path, predictor: Predictor, drawing_folder: Path | None, apply_exif: bool) -> dict[str, Any]:
    """Return all that the detections in an image and its drawing depend on, besides the image."""
    return {
        "model": sha256(model),
        "profile": asdict(predictor.profile),
        "score": predictor.score_threshold,
        "labels": dict(predictor.label_map),
        "exif": apply_exif,
        "out": None if drawing_folder is None else str(drawing_folder.resolve()),
        "device": predictor.device_type,
        "runtime": predictor.runtime,
    }


def _key(path: Path) -> str:
    """Return a text that changes when the file does."""
    try:
        status = path.stat()
    except OSError:  # it will be reported when the file is read
        return ""
    return f"{status.st_mtime_ns} {status.st_size} {path.resolve()}"
