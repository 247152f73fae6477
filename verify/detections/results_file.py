"""Files of detections: COCO's results format, the test-dev submission, and what an interrupted run leaves behind."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from effdet_torch.errors import EvaluationError
from effdet_torch.metrics.coco import CocoResult
from effdet_torch.terminal import write_json

FIELDS = {"image_id", "category_id", "bbox", "score"}
ByImage = dict[int, list[CocoResult]]


def read_results(path: Path) -> list[CocoResult]:
    """Read detections in COCO's results format.

    Raises:
        EvaluationError: The file cannot be read, or an entry is not a detection.
    """
    try:
        results = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise EvaluationError(f"{path} cannot be read as COCO results: {error}") from error
    if not isinstance(results, list):
        raise EvaluationError(f"{path} is not in COCO's results format: expected a list of detections")
    for number, result in enumerate(results):
        if not _is_result(result):
            raise EvaluationError(
                f"{path}: entry {number} is not a detection; expected image_id, category_id, score and bbox as "
                f"[x, y, width, height], found {json.dumps(result)[:200]}"
            )
    return results


def _is_result(result: Any) -> bool:
    if not isinstance(result, dict) or not result.keys() >= FIELDS:
        return False
    box = result["bbox"]
    numbers = [*box, result["score"]] if isinstance(box, list) and len(box) == 4 else [None]
    return all(isinstance(x, int | float) for x in numbers) and all(
        isinstance(result[key], int) for key in ("image_id", "category_id")
    )


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
            header, *entries = map(json.loads, lines) if lines else [self._origin]
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
