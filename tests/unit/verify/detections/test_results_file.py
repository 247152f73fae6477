from __future__ import annotations

import gc
import json
import re
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from effdet_torch.errors import EvaluationError
from support.coco_samples import result
from verify.detections.results_file import read_results, to_submission


def entry(**values: str) -> str:
    """Return a results file whose second entry has other values, as JSON."""
    right = {"image_id": "1", "category_id": "1", "bbox": "[1, 2, 3, 4]", "score": "0.5"}
    entries = (", ".join(f'"{key}": {value}' for key, value in x.items()) for x in (right, right | values))
    return f"[{', '.join(f'{{{x}}}' for x in entries)}]"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[", "cannot be read as COCO results: Input data was truncated"),
        ("{}", "results format: Expected `array`, got `object`"),
        ("[1]", "Expected `object`, got `int` - at `$[0]`"),
        ("[{}]", "missing required field `image_id` - at `$[0]`"),
        (entry(bbox="[1, 2, 3]"), "Expected `array` of length >= 4 - at `$[1].bbox`"),
        (entry(bbox="[1, 2, 3, 4, 5]"), "Expected `array` of length <= 4 - at `$[1].bbox`"),
        (entry(bbox='[1, 2, 3, "4"]'), "Expected `float`, got `str` - at `$[1].bbox[3]`"),
        (entry(image_id='"1"'), "Expected `int`, got `str` - at `$[1].image_id`"),
        (entry(category_id="1.5"), "Expected `int`, got `float` - at `$[1].category_id`"),
        (entry(category_id="true"), "Expected `int`, got `bool` - at `$[1].category_id`"),
        (entry(score="null"), "Expected `float`, got `null` - at `$[1].score`"),
        (entry(score="NaN"), "cannot be read as COCO results: JSON is malformed"),
        (entry(score="1e999"), "Number out of range - at `$[1].score`"),
    ],
)
def test_what_is_not_in_the_results_format_is_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "r.json").write_text(content)
    with pytest.raises(EvaluationError, match=re.escape(message)) as caught:
        read_results(tmp_path / "r.json")
    assert str(caught.value).startswith(str(tmp_path / "r.json"))


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match=r"r\.json cannot be read: No such file"):
        read_results(tmp_path / "r.json")


def test_every_digit_is_that_of_pythons_own_json(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2**64, 40_000, np.uint64).view(np.float64)
    numbers = [float(x) for x in [*bits[np.isfinite(bits)], *rng.random(10_000).astype(np.float32), -0.0, 5e-324]]
    rows = [result(n, 1, numbers[n : n + 4], numbers[n + 4]) for n in range(0, len(numbers) - 4, 5)]
    path = tmp_path / "r.json"
    path.write_text(json.dumps(rows))
    assert json.dumps(read_results(path)) == path.read_text()


def test_what_else_files_hold(tmp_path: Path) -> None:
    """Integers as numbers, other fields, a byte order mark, huge ids."""
    path = tmp_path / "r.json"
    path.write_text(entry(image_id=str(10**25), bbox="[1, 2, 3, 4]", score="1").replace("}", ', "id": 7}'), "utf-8-sig")
    assert read_results(path)[1] == result(10**25, 1, (1.0, 2.0, 3.0, 4.0), 1.0)
    path.write_text(" [] ")
    assert read_results(path) == []


def test_garbage_collection_goes_on_afterwards(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    for content in ("[]", "{"):
        path.write_text(content)
        with suppress(EvaluationError):
            read_results(path)
        assert gc.isenabled()
    gc.disable()
    try:
        path.write_text("[]")
        read_results(path)
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_a_submission_is_rounded() -> None:
    rounded = to_submission([result(1, 2, (1.23456, 0.005, 100.996, 7.0), 0.12345)])
    assert rounded == [result(1, 2, (1.23, 0.01, 101.0, 7.0), 0.123)]
