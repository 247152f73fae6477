"""What an interrupted run has found so far: JSON lines beside the file that it would have written."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

from effdet_torch.errors import EvaluationError
from effdet_torch.metrics.columns import CocoResult, detection_type
from effdet_torch.outputs.paths import is_stream
from effdet_torch.terminal.verbosity import tell
from effdet_torch.untrusted.documents import parse_json
from effdet_torch.untrusted.files import MAX_JSON_BYTES, FilePart, read_bytes

ImageId = int | str
ByImage = dict[str, list[CocoResult]]


def image_key(source: Path | FilePart) -> str:
    """Return a text that changes when an image file does: its path, size and time of change, and the part of it."""
    path = source.path if isinstance(source, FilePart) else source
    try:
        status = path.stat()
    except OSError:  # it will be reported when the file is read
        return ""
    part = f"{source.offset}+{source.size} of " if isinstance(source, FilePart) else ""
    return f"{status.st_mtime_ns} {part}{status.st_size} {path.resolve()}"


class PartialResults:
    """Detections per image in a file that survives an interruption: JSON lines beside the final results.

    The first line says what the detections came from; only a run from the same resumes them.

    Args:
        results: the file that the run will write in the end. Without one, and beside a device or a pipe, nothing is
            kept.
        origin: returns what the detections depend on: checksums and settings, plain values.
        rank: of this process; every process of a distributed run writes its own file, and all read all of them.

    Attributes:
        done: {key of the image: detections} of all files, as they were found.

    Raises:
        EvaluationError: A file comes from something else, is damaged, or cannot be read.
    """

    def __init__(self, results: Path | None, origin: Callable[[], Mapping[str, Any]], rank: int = 0) -> None:
        self._results = None if results is None or is_stream(results) else results
        self._origin: dict[str, Any] = {}
        self._rank, self._begun = rank, False
        self.done: ByImage = {}
        if self._results is not None:
            self._origin = json.loads(json.dumps(origin()))
            for path in _files(self._results):
                self.done |= self._read(path)

    def tell_resumed(self, count: int, total: int) -> None:
        """Say how many of the images an interrupted run has done; nothing if there was none."""
        if self._results is not None and self.done:
            kept = f"{count} of {total} images are kept"
            tell(f"resuming an interrupted run of {self._results.name}; {kept}", err=True)

    def add(self, image: str, detections: Sequence[CocoResult]) -> None:
        """Keep the detections of an image, given by its key; they are in the file when this returns.

        Raises:
            EvaluationError: The file cannot be written.
        """
        if self._results is None:
            return
        path = self._results.with_name(f"{self._results.name}.partial{self._rank or ''}")
        if not self._begun:  # with the first line, and without a line that was cut off
            _write(path, "wb", b"".join(_lines(path)[0]) or _line(self._origin))
            self._begun = True
        _write(path, "ab", _line({"image": image, "detections": list(detections)}))

    def remove(self) -> None:
        """Delete the files of all processes, which the final results make superfluous."""
        for path in [] if self._results is None else _files(self._results):
            path.unlink(missing_ok=True)

    def _read(self, path: Path) -> ByImage:
        lines, cut_off = _lines(path)
        if not lines and not _line(self._origin).startswith(cut_off):  # another file, which must not be lost
            raise EvaluationError(f"{path} is not of this run, which would keep its results there; move it away")
        try:
            header, *entries = map(parse_json, lines) if lines else [self._origin]
            done = _checked(entries)
        except ValueError as error:
            raise EvaluationError(f"{path} is damaged: {error}; delete it to start over") from error
        if header != self._origin:
            found = header if isinstance(header, dict) else {}
            different = [key for key in self._origin if found.get(key) != self._origin[key]]
            raise EvaluationError(
                f"{path} holds the results of an interrupted run with another {' and '.join(different) or 'format'}. "
                "Delete it to start over, or choose another output file"
            )
        return done


NOTHING_KEPT = PartialResults(None, dict)


def remove_leftovers(results: Path, fields: Collection[str]) -> None:
    """Delete what interrupted runs kept beside results that no run will write; other files under such names stay.

    Args:
        results: the file that those runs would have written in the end.
        fields: what their first line holds, see `PartialResults`.
    """
    for path in _files(results):
        try:
            header = parse_json(_lines(path)[0][0])
        except (EvaluationError, IndexError, ValueError):
            continue
        if isinstance(header, dict) and header.keys() == set(fields):
            path.unlink(missing_ok=True)


def _files(results: Path) -> list[Path]:
    if not results.parent.is_dir():
        return []
    name = re.compile(re.escape(f"{results.name}.partial") + r"\d*")
    return sorted(path for path in results.parent.iterdir() if name.fullmatch(path.name))


def _write(path: Path, mode: str, data: bytes) -> None:
    try:
        with path.open(mode) as stream:
            stream.write(data)
    except OSError as error:
        raise EvaluationError(f"{path} cannot be written: {error.strerror}; choose another folder") from error


def _checked(entries: object) -> ByImage:
    """Return {image: detections} of the entries of a file.

    Raises:
        ValueError: They are something else.
    """
    from msgspec import ValidationError, convert  # late: most runs resume nothing

    fields: dict[str, Any] = {"image": str, "detections": list[detection_type(ImageId)]}  # type: ignore[misc]
    try:
        checked = convert(entries, list[TypedDict("Entry", fields)])  # type: ignore[operator, misc]
    except ValidationError as error:
        raise ValueError(str(error)) from error
    return {entry["image"]: entry["detections"] for entry in checked}


def _lines(path: Path) -> tuple[list[bytes], bytes]:
    """Return the complete lines of a file, and the begin of a last one that was cut off while it was written."""
    try:
        lines = read_bytes(path, MAX_JSON_BYTES).splitlines(keepends=True)
    except FileNotFoundError:
        return [], b""
    except OSError as error:
        raise EvaluationError(f"{path} cannot be read: {error.strerror}; choose another output file") from error
    cut_off = b"" if not lines or lines[-1].endswith(b"\n") else lines.pop()
    return lines, cut_off


def _line(values: Mapping[str, Any]) -> bytes:
    return json.dumps(values).encode() + b"\n"
