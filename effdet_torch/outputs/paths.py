"""Output paths: which are streams, and the check that no file is both read and written, or written twice."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from effdet_torch.errors import OverwriteError

Row = tuple[str, Path]  # an option, and a file that it makes the run write
STDOUT = Path("/dev/stdout")  # what `-` means; other systems need not have this file
NEXT_STEP = "choose another name or folder"
_DESCRIPTORS = Path("/dev/fd")
_STANDARD = {STDOUT: 1, Path("/dev/stderr"): 2}
_MOST_LINKS = 40  # more are a circle, as for Linux


@dataclass(frozen=True)
class RunFiles:
    """What is known of a run's files before the work.

    Attributes:
        outputs: will be written; where one is a folder, no other option may write into it.
        inputs: are read, if they exist.
    """

    outputs: tuple[Row, ...] = ()
    inputs: tuple[Path, ...] = ()

    def resolved(self, others: Iterable[Path] = ()) -> frozenset[Path]:
        """Return all files of the run, and others, without links in their names."""
        paths = [*self.inputs, *(path for _, path in self.outputs), *others]
        return frozenset(Path(os.path.realpath(path)) for path in paths)

    def require_apart(self, inputs: Iterable[Path] = (), outputs: Iterable[Row] = ()) -> None:
        """Check that no output is an input or another output, under whatever name: links count as the same file.

        Args:
            inputs: what else is read.
            outputs: what else is written.

        Raises:
            OverwriteError: A file would be overwritten.
        """
        rows = (*self.outputs, *outputs)
        read = {_file_number(path): path for path in (*self.inputs, *inputs)} if rows else {}
        taken = dict[object, Row]()
        for option, path in rows:
            number = _file_number(path)
            if number is not None and number in read:
                raise OverwriteError(f"{option} {path} would overwrite {read[number]}, which is read; {NEXT_STEP}")
            taken.setdefault(_identity(path), (option, path))
        for option, path in rows:
            for place in (path, path.parent):
                other, found = taken.get(_identity(place), (option, path))
                if other != option:
                    raise OverwriteError(f"{option} {path} would overwrite {other} {found}; {NEXT_STEP}")


NO_FILES = RunFiles()


def is_stream(path: Path) -> bool:
    """Return whether a path is a device, a pipe or a descriptor: it can be written to, but not replaced."""
    mode = _mode(path)
    return (bool(mode) and not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))) or descriptor(path) is not None


def is_folder(path: Path) -> bool:
    """Return whether a path is a folder; unlike `Path.is_dir`, also for names that are too long."""
    return stat.S_ISDIR(_mode(path))


def _mode(path: Path) -> int:
    try:
        return path.stat().st_mode
    except OSError:
        return 0


def descriptor(path: Path) -> int | None:
    """Return the number of the open descriptor that a path means, also through links: 1 for `/dev/stdout`."""
    with suppress(OSError):
        for _ in range(_MOST_LINKS):
            if path in _STANDARD:
                return _STANDARD[path]
            if path.name.isdecimal() and path.parent.samefile(_DESCRIPTORS):
                return int(path.name)
            path = path.parent / path.readlink()  # OSError: not a link
    return None


def _identity(path: Path) -> object:
    """Return what all names of a file have in common, whether or not it exists."""
    return _file_number(path) or os.path.realpath(path)


def _file_number(path: Path) -> tuple[int, int] | None:
    """Return device and inode, which all names of a file share; None if it does not exist."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino
