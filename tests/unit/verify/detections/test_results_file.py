from __future__ import annotations

from pathlib import Path

import pytest

from effdet_torch.errors import EvaluationError
from support.coco_samples import result
from verify.detections.results_file import PartialResults, read_results, to_submission


def test_files_of_several_processes_are_read_together(tmp_path: Path) -> None:
    out, origin = tmp_path / "results.json", {"model": "x"}
    for rank in (0, 1, 11):
        partial = PartialResults(out, origin, rank)
        partial.begin()
        partial.add(rank, [result(rank, 1, (0, 0, 1, 1), 0.5)])
    (tmp_path / "results.json.partial.txt").write_text("another file")
    again = PartialResults(out, origin)
    assert set(again.done) == {0, 1, 11}
    again.finish(again.done[11])
    assert read_results(out) == again.done[11]
    assert {path.name for path in tmp_path.iterdir()} == {"results.json", "results.json.partial.txt"}


def test_a_partial_file_that_cannot_be_written(tmp_path: Path) -> None:
    partial = PartialResults(tmp_path / "r.json", {"model": "x"})
    (tmp_path / "r.json.partial").mkdir()
    with pytest.raises(EvaluationError, match=r"r\.json\.partial cannot be written: Is a directory; choose another"):
        partial.add(1, [])


@pytest.mark.parametrize("content", [b"{\n", b'{"model": "x"}\n[]\n', b'{"model": "x"}\n{"image_id": 1}\n'])
def test_a_damaged_partial_file_is_explained(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "r.json.partial").write_bytes(content)
    with pytest.raises(EvaluationError, match=r"r\.json\.partial is damaged: .*delete it"):
        PartialResults(tmp_path / "r.json", {"model": "x"})


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "{}",
        "[1]",
        "[{}]",
        '[{"image_id": 1, "category_id": 1, "bbox": [1, 2, 3], "score": 1}]',
        '[{"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, "4"], "score": 1}]',
        '[{"image_id": "1", "category_id": 1, "bbox": [1, 2, 3, 4], "score": 1}]',
    ],
)
def test_what_is_not_in_the_results_format_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "r.json").write_text(content)
    with pytest.raises(EvaluationError, match=r"COCO results|results format|not a detection"):
        read_results(tmp_path / "r.json")


def test_a_submission_is_rounded() -> None:
    rounded = to_submission([result(1, 2, (1.23456, 0.005, 100.996, 7.0), 0.12345)])
    assert rounded == [result(1, 2, (1.23, 0.01, 101.0, 7.0), 0.123)]
