"""What was found in one image file, or in one frame of a video."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from effdet_torch.errors import EffdetError
from effdet_torch.inference.files.counts import counted
from effdet_torch.inference.results.detections import Detections
from effdet_torch.metrics.columns import CocoResult

NAME = "category_name"  # in an entry, beside what COCO's results format asks for; its readers leave it out


@dataclass(frozen=True)
class FileDetections:
    """One image file or frame and what was found in it, or why it could not be read.

    Attributes:
        name: of the file, or the video and the number of the frame: "clip.mp4#17".
        coco: the detections as entries of a COCO results file, best first, and the name of the class.
        error: why it could not be read.
        mask: of a model with a segmentation head: "image_id", "mask" (the name of the file with the mask, or None) and
            "shares" ({class: share of the pixels}).
        detects: whether the model predicts boxes.
        place: of a frame: "frame", its number from 0, and "time" in seconds; every entry has them.
    """

    name: str
    coco: Sequence[CocoResult] = ()
    error: EffdetError | None = None
    mask: dict[str, Any] | None = None
    detects: bool = True
    place: Mapping[str, Any] = field(default_factory=dict)

    @property
    def entries(self) -> list[dict[str, Any]]:
        """What a JSON file lists: COCO results, or without boxes the mask."""
        found = self.coco if self.detects or self.mask is None else [self.mask]
        return [{**entry, **self.place} for entry in found]

    @property
    def summary(self) -> str:
        """One line: the number of detections of each class, the class of the best detection first; shares of pixels."""
        if self.error is not None:
            return str(self.error)
        parts = [counted(entry[NAME] for entry in self.coco)] if self.detects else []
        if self.mask is not None:
            shares = (f"class {number} {share:.1%}" for number, share in self.mask["shares"].items())
            parts.append(f"pixels: {', '.join(shares)}")
        return f"{self.name}: {'; '.join(parts)}"


def named(entries: Sequence[CocoResult], names: Sequence[str]) -> list[CocoResult]:
    """Return entries of a COCO results file with the names of their classes."""
    return [{**entry, NAME: name} for entry, name in zip(entries, names, strict=True)]


def mask_entry(image_id: int | str, found: Detections, mask_file: str | None) -> dict[str, Any] | None:
    """Return what is told of the mask of an image, see `FileDetections`; None if there is none."""
    if found.mask is None:
        return None
    return {"image_id": image_id, "mask": mask_file, "shares": found.mask_shares()}
