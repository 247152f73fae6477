"""Where pictures and videos go that a run writes: laid out as what it reads."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from effdet_torch.errors import UsageError
from effdet_torch.inference.files.find import Sources, is_video
from effdet_torch.outputs.paths import Row, RunFiles

DRAWN_SUFFIXES = frozenset({".jpeg", ".jpg", ".png"})
LOSSY = frozenset({".jfif", ".jpeg", ".jpg"})
VIDEO_SUFFIX = ".mp4"
VIDEO = frozenset({VIDEO_SUFFIX})
UNSAFE = re.compile(r"[^\w.-]+|_+")  # in a name of a class; _ parts the fields of the name of a crop
MOST_LETTERS = 60  # of the name of a class in a file name


@dataclass(frozen=True)
class Outputs:
    """The folders that a run writes pictures into; None writes none.

    Attributes:
        drawings: for images and videos with boxes drawn.
        crops: for one picture per detection.

    Raises:
        UsageError: Both are the same folder.
    """

    drawings: Path | None = None
    crops: Path | None = None

    def __post_init__(self) -> None:
        folders = [os.path.realpath(folder) for folder in (self.drawings, self.crops) if folder is not None]
        if len(set(folders)) < len(folders):
            raise UsageError(f"--out and --crops are the same folder {self.crops}; choose another one for the crops")


@dataclass(frozen=True)
class Places:
    """Where what is made of one image or video goes; None: nowhere.

    Attributes:
        drawing: of the drawn copy.
        crops: what the names of crops begin with; of a video, the folder for those of its frames.
        crop_suffix: JPEG where the original is lossy.
    """

    drawing: Path | None = None
    crops: Path | None = None
    crop_suffix: str = ".jpg"

    def pictures(self, has_mask: bool) -> list[Row]:
        """Return the pictures beside the crops, and what they are called in errors."""
        if self.drawing is None:
            return []
        return [("the drawing", self.drawing), *([("the mask", mask_path(self.drawing))] if has_mask else [])]

    def crop_paths(self, class_names: Iterable[str]) -> list[Path]:
        """Return where the crops of detections go, best first: STEM_CLASS_NUMBER, from 1.

        The class has no `_` and nothing that a file system could take for more than a part of a name, so no two images
        share the name of a crop.
        """
        if (stem := self.crops) is None:
            return []
        words = (UNSAFE.sub("-", name).strip("-.")[:MOST_LETTERS] or "class" for name in class_names)
        return [stem.with_name(f"{stem.name}_{word}_{n}{self.crop_suffix}") for n, word in enumerate(words, 1)]

    def of_frame(self, number: int) -> Places:
        """Return where the crops of a frame of a video go."""
        return Places(crops=None if self.crops is None else self.crops / f"{number:06d}")


def _laid_out(paths: Sequence[Path], folder: Path) -> list[Path]:
    """Return where copies of images and videos go: laid out as below the originals' common folder.

    An image becomes a PNG unless it is a JPEG, a video `.mp4`. Where `a.webp` lies beside `a.webp.png`, which keeps its
    name, the first becomes `a.webp.png.png`.
    """
    if not paths:
        return []
    sources = [Path(os.path.realpath(path.parent), path.name) for path in paths]
    common = os.path.commonpath([path.parent for path in sources])
    targets, taken = dict[Path, Path](), set[Path]()
    for source in sorted(set(sources), key=lambda path: (path.suffix.lower() not in _kept(path), path)):
        kept, target = _kept(source), folder / os.path.relpath(source, common)
        while target.suffix.lower() not in kept or target in taken:
            target = target.with_name(f"{target.name}{VIDEO_SUFFIX if kept is VIDEO else '.png'}")
        targets[source] = target
        taken.add(target)
    return [targets[source] for source in sources]


def _kept(source: Path) -> frozenset[str]:
    """Return the suffixes that the drawing of a file may keep."""
    return VIDEO if is_video(source) else DRAWN_SUFFIXES


def planned(sources: Sources, outputs: Outputs) -> tuple[list[Places], list[Places]]:
    """Return where what is made of every image goes, and of every video, see `_laid_out`.

    A camera or stream has no name of a file; what is made of it is called like it.

    Raises:
        OverwriteError: A drawing would replace an original, or another drawing.
    """
    files, count = sources.files, len(sources.images)
    streams = [video.name for video in sources.videos if video.path is None]
    names = [f"{UNSAFE.sub('-', name).strip('-.')}{VIDEO_SUFFIX}" for name in streams]
    drawings: list[Path | None] = [None] * (len(files) + len(streams))
    stems: list[Path | None] = [*drawings]
    if outputs.drawings is not None:
        drawn = [*_laid_out(files, outputs.drawings), *(outputs.drawings / name for name in names)]
        labels = ["the drawing"] * len(files) + [f"the drawing of {name}" for name in streams]
        RunFiles().require_apart(files, zip(labels, drawn, strict=True))
        drawings = [*drawn]
    if outputs.crops is not None:
        stems = [*_stems([*_laid_out(files, outputs.crops), *(outputs.crops / name for name in names)])]
    suffixes = [".jpg" if path.suffix.lower() in LOSSY else ".png" for path in sources.images]
    suffixes += [".jpg"] * len(sources.videos)
    places = [Places(*row) for row in zip(drawings, stems, suffixes, strict=True)]
    return places[:count], places[count:]


def _stems(drawings: Sequence[Path]) -> list[Path]:
    """Return drawings without their suffixes, which stay where they tell two apart."""
    stems = [drawing.with_suffix("") for drawing in drawings]
    return stems if len(set(stems)) == len(set(drawings)) else list(drawings)


def mask_path(drawing: Path) -> Path:
    """Return where the mask beside a drawing goes: a grey PNG whose values are the classes of the pixels."""
    return drawing.with_name(f"{drawing.name}.mask.png")
