"""Files of detections: COCO's results format, the test-dev submission, and what an interrupted run leaves behind."""

from __future__ import annotations

import codecs
import gc
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Annotated, Any, TypedDict

from effdet_torch.errors import EvaluationError
from effdet_torch.metrics.coco import CocoResult
from effdet_torch.terminal import write_json
from effdet_torch.untrusted.documents import parse_json
from effdet_torch.untrusted.files import MAX_JSON_BYTES, read_bytes

ByImage = dict[int, list[CocoResult]]


def read_results(path: Path) -> list[CocoResult]:
    """Read detections in COCO's results format.

    Raises:
        EvaluationError: The file cannot be read, or an entry is not a detection.
    """
    from msgspec import DecodeError, ValidationError

    try:
        content = read_bytes(path, MAX_JSON_BYTES).removeprefix(codecs.BOM_UTF8)
        with _uncollected():  # half a million entries come into being, and none of them is freed
            results: list[CocoResult] = _decoder().decode(content)
    except ValidationError as error:  # names the entry: "Expected `int`, got `str` - at `$[3].image_id`"
        raise EvaluationError(
            f"{path} is not in COCO's results format: {error}. Expected a list of detections: image_id and category_id "
            "as integers, score, and bbox as [x, y, width, height]"
        ) from error
    except OSError as error:
        raise EvaluationError(f"{path} cannot be read: {error.strerror}; pass a file of COCO results") from error
    except (DecodeError, RecursionError) as error:
        raise EvaluationError(f"{path} cannot be read as COCO results: {error}") from error
    return results


@cache
def _decoder() -> Any:
    """Return a decoder of detections that checks every entry while it parses; fields that COCO lacks are not read."""
    from msgspec import Meta
    from msgspec.json import Decoder

    bbox = Annotated[list[float], Meta(min_length=4, max_length=4)]
    fields: dict[str, Any] = {"image_id": int, "category_id": int, "bbox": bbox, "score": float}
    return Decoder(list[TypedDict("Detection", fields)])  # type: ignore[misc, operator]


@contextmanager
def _uncollected() -> Iterator[None]:
    """Switch garbage collection off, which would walk all that has been read again and again."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
        gc.freeze()  # and back: what is new counts as old, so that it is not walked at once
        gc.unfreeze()
    finally:
        if enabled:
            gc.enable()


def to_submission(results: Iterable[CocoResult]) -> list[CocoResult]:
    """Round detections as the official code does for the test-dev server: boxes to 2 decimals, scores to 3.

    Source: official code, `coco_metric.EvaluationMetric`.
    """
    return [
        result | {"bbox": [round(x, 2) for x in result["bbox"]], "score": round(result["score"], 3)}
        for result in results
    ]


def submission_name(model: Path) -> str:
    """Return the file name that the test-dev server requires."""
    return f"detections_test-dev2017_{model.stem}_results.json"


class PartialResults:
    """Detections per image in a file that survives an interruption: JSON lines beside the final results.

    The first line says what the detections came from; only a run from the same resumes them.

    Args:
        results: the file that the run will write in the end.
        origin: what the detections depend on: checksums and settings, plain values.
        rank: of this process; every process of a distributed run writes its own file, and all read all of them.

    Attributes:
        done: {image id: detections} of all files, as they were found.

    Raises:
        EvaluationError: A file comes from something else, is damaged, or cannot be read.
    """

    def __init__(self, results: Path, origin: Mapping[str, Any], rank: int = 0) -> None:
        self._results, self._origin = results, json.loads(json.dumps(origin))
        self._path = results.with_name(f"{results.name}.partial{rank or ''}")
        self.done: ByImage = {}
        for path in self._files():
            self.done |= self._read(path)

    def begin(self) -> None:
        """Make the file of this process ready for `add`: with its first line, and without a line that was cut off."""
        self._write("wb", b"".join(_complete_lines(self._path)) or _line(self._origin))

    def add(self, image_id: int, detections: list[CocoResult]) -> None:
        """Keep the detections of an image; they are in the file when this returns."""
        self._write("ab", _line({"image_id": image_id, "detections": detections}))

    def finish(self, results: list[CocoResult]) -> None:
        """Write the final results, which make the files of all processes superfluous, and delete those.

        Raises:
            OutputError: The results cannot be written; the files are kept.
        """
        write_json(self._results, results, indent=None)
        for path in self._files():
            path.unlink(missing_ok=True)

    def _write(self, mode: str, data: bytes) -> None:
        try:
            with self._path.open(mode) as stream:
                stream.write(data)
        except OSError as error:
            raise EvaluationError(f"{self._path} cannot be written: {error.strerror}; choose another folder") from error

    def _files(self) -> list[Path]:
        start = f"{self._results.name}.partial"
        siblings = self._results.parent.iterdir() if self._results.parent.is_dir() else ()
        return sorted(path for path in siblings if path.name.removeprefix(start).isdecimal() or path.name == start)

    def _read(self, path: Path) -> ByImage:
        lines = _complete_lines(path)
        try:
            header, *entries = map(parse_json, lines) if lines else [self._origin]
            done: ByImage = {entry["image_id"]: entry["detections"] for entry in entries}
        except (ValueError, KeyError, TypeError) as error:
            raise EvaluationError(f"{path} is damaged: {error!r}; delete it to start over") from error
        if header != self._origin:
            found = header if isinstance(header, dict) else {}
            different = [key for key in self._origin if found.get(key) != self._origin[key]]
            raise EvaluationError(
                f"{path} holds the results of an interrupted run with another {' and '.join(different) or 'format'}. "
                "Delete it to start over, or choose another --results"
            )
        return done


def _complete_lines(path: Path) -> list[bytes]:
    """Return the lines of a file without a last one that was cut off while it was written."""
    try:
        lines = path.read_bytes().splitlines(keepends=True)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise EvaluationError(f"{path} cannot be read: {error.strerror}; choose another --results") from error
    return lines if not lines or lines[-1].endswith(b"\n") else lines[:-1]


def _line(values: Mapping[str, Any]) -> bytes:
    return json.dumps(values).encode() + b"\n"
