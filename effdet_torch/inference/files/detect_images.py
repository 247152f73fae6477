"""Detect objects in image files."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from effdet_torch.file_format import sha256
from effdet_torch.inference.files.find import image_id
from effdet_torch.inference.files.found import NAME, FileDetections, mask_entry, named
from effdet_torch.inference.files.pictures import save_pictures
from effdet_torch.inference.files.places import Outputs, Places, mask_path
from effdet_torch.inference.images import ImageError
from effdet_torch.inference.partial_results import NOTHING_KEPT, PartialResults, image_key
from effdet_torch.inference.predict import Predictor
from effdet_torch.inference.results.detections import Detections
from effdet_torch.metrics.columns import CocoResult
from effdet_torch.outputs.paths import NO_FILES, RunFiles

LOG = logging.getLogger("effdet")


def detect_images(
    predictor: Predictor,
    paths: Sequence[Path],
    places: Sequence[Places] | None = None,
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
        places: where the pictures made of them go, see `planned`; None makes none.
        batch_size: how many images are in memory at once, and how many a GPU works on at once.
        apply_exif: see `read_image`; boxes refer to the image as it was read.
        kept: of an interrupted run, see `origin`; what it has, pictures included, is not done again.
        files: what else the run reads and writes.

    Raises:
        OverwriteError: A picture would replace another file of the run.
        OutputError: A picture cannot be written.
    """
    places = [Places()] * len(paths) if places is None else places
    rows = [_Row(*row, predictor) for row in zip(paths, places, strict=True)]
    pictures = [picture for row in rows for picture in row.pictures]
    files.require_apart(paths, pictures)
    others = files.resolved([*paths, *(path for _, path in pictures)])
    done = [row.is_done(kept) for row in rows]
    kept.tell_resumed(sum(done), len(done))
    open_paths = [path for path, is_done in zip(paths, done, strict=True) if not is_done]
    start, results = time.monotonic(), predictor.stream(open_paths, batch_size, apply_exif=apply_exif)
    for row, is_done in zip(rows, done, strict=True):
        result = None if is_done else next(results)
        if result is None:
            yield row.kept(kept)
        elif isinstance(result, ImageError):
            yield FileDetections(str(row.path), error=result)
        else:
            pixels, found = result
            save_pictures(pixels, found, row.place, others)
            coco = found.to_coco(image_id(row.path))
            kept.add(row.key, coco)
            yield row.found(found, coco)
    rate = len(open_paths) / max(time.monotonic() - start, 1e-9)
    LOG.info("detected objects on %s; images: %d, %.1f/s", predictor.device, len(open_paths), rate)


class _Row:
    """One image of a run.

    Attributes:
        path: of the image.
        place: where its pictures go.
        pictures: those that it will have, but for crops.
        key: under which its detections are kept: changes when the file does.
    """

    def __init__(self, path: Path, place: Places, predictor: Predictor) -> None:
        self.path, self.place, self._predictor = path, place, predictor
        self.pictures = place.pictures(predictor.config.segments)
        self.key = image_key(path)

    def is_done(self, kept: PartialResults) -> bool:
        """Return whether an interrupted run has detected its objects, and its pictures are there."""
        if self.key not in kept.done:
            return False
        crops = self.place.crop_paths(entry[NAME] for entry in self.kept(kept).coco)
        return all(path.is_file() for path in [*(path for _, path in self.pictures), *crops])

    def kept(self, kept: PartialResults) -> FileDetections:
        """Return what an interrupted run has found."""
        entries = kept.done[self.key]
        names = self._predictor.names_of(entry["category_id"] for entry in entries)
        return FileDetections(str(self.path), named(entries, names))

    def found(self, found: Detections, coco: list[CocoResult]) -> FileDetections:
        """Return what this run has found, whose boxes are also given as COCO's entries."""
        drawing = self.place.drawing
        mask = mask_entry(image_id(self.path), found, None if drawing is None else mask_path(drawing).name)
        detects = self._predictor.config.detects
        return FileDetections(str(self.path), named(coco, found.names), mask=mask, detects=detects)


def origin(model: Path, predictor: Predictor, outputs: Outputs, apply_exif: bool) -> dict[str, Any]:
    """Return all that the detections in an image and its pictures depend on, besides the image."""
    return {
        "model": sha256(model),
        "profile": asdict(predictor.profile),
        "score": predictor.score_threshold,
        "classes": predictor.category_ids,
        "labels": dict(predictor.label_map),
        "exif": apply_exif,
        "out": None if outputs.drawings is None else str(outputs.drawings.resolve()),
        "crops": None if outputs.crops is None else str(outputs.crops.resolve()),
        "device": predictor.device_type,
        "runtime": predictor.runtime,
    }
