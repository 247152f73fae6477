"""Files of detections: COCO's results format, and the test-dev submission."""

from __future__ import annotations

import codecs
import gc
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from effdet_torch.errors import EvaluationError
from effdet_torch.metrics.columns import CocoResult, detection_type
from effdet_torch.untrusted.files import MAX_JSON_BYTES, read_bytes, reason_of


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
        raise EvaluationError(f"{path} cannot be read: {reason_of(error)}") from error
    except (DecodeError, RecursionError) as error:
        raise EvaluationError(f"{path} cannot be read as COCO results: {error}") from error
    return results


@cache
def _decoder() -> Any:
    """Return a decoder of detections that checks every entry while it parses; fields that COCO lacks are not read."""
    from msgspec.json import Decoder

    return Decoder(list[detection_type()])  # type: ignore[misc]


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
