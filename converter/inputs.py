"""The files that a source may consist of, known before it is opened, and also where it cannot be opened."""

from __future__ import annotations

import glob
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from converter.formats import file_kind as formats
from converter.hparams.given import CONFIG_FILE
from converter.hparams.pipeline import PIPELINE_FILE

OF_PREFIX = (".index", ".data-*", ".meta")
# Of the folder, whichever of its checkpoints was named.
IN_FOLDER = (
    *(formats.STATE_FILE, CONFIG_FILE, PIPELINE_FILE, *(f"*{suffix}" for suffix in OF_PREFIX)),
    *(formats.SAVED_MODEL_FILE, f"{formats.VARIABLES}/*"),
)


def input_files(source: str, hparams: str | None = None) -> list[Path]:
    """Return what may be read for a source: the path itself, what lies beside it, and the settings in the folder above.

    Args:
        source: as the user named it; an official name or a URL has no files yet.
        hparams: `--hparams`, which may be a file.
    """
    files = [] if hparams is None else [Path(hparams)]
    with suppress(OSError):  # a text that no file can have as its name
        files += _belonging_to(Path(source))
    return files


def _belonging_to(path: Path) -> Iterator[Path]:
    if not path.exists() and not any(any(path.parent.glob(glob.escape(path.name) + suffix)) for suffix in OF_PREFIX):
        return
    folder = path if path.is_dir() else path.parent
    yield path
    yield from (folder.absolute().parent / name for name in (CONFIG_FILE, PIPELINE_FILE))
    for pattern in IN_FOLDER:
        yield from folder.glob(pattern)
    if path.is_dir() and formats.recognize(path) == formats.MODEL_FOLDER:
        yield from (folder / name for name in formats.MODEL_FILES)
