"""FiftyOne applies a model by torchvision's contract; with its own database."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from effdet_torch import Predictor
from support.guests import run_sections

pytestmark = [pytest.mark.guest, pytest.mark.filterwarnings("default")]


@pytest.fixture
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("FIFTYONE_DATABASE_DIR", str(tmp_path / "database"))
    monkeypatch.setenv("FIFTYONE_DO_NOT_TRACK", "true")
    monkeypatch.setenv("HOME", str(tmp_path))
    yield
    import fiftyone as fo

    for name in fo.list_datasets():
        fo.delete_dataset(name)


def test_labels_are_ours(place: Path, database: None) -> None:
    names = run_sections("torchvision's contract", "FiftyOne")
    predictor = Predictor("d0.pth", score_threshold=0.3)
    total = 0
    for sample in names["dataset"]:
        (expected,) = predictor([sample.filepath])
        detections = sorted(sample["effdet"].detections, key=lambda one: -one.confidence)
        height, width = expected.size
        assert [one.label for one in detections] == expected.names
        boxes = np.clip(expected.boxes_xyxy, 0, [width, height, width, height])
        for one, box, score in zip(detections, boxes, expected.scores, strict=True):
            left, top, wide, high = one.bounding_box  # shares of the image's sides
            found = [left * width, top * height, (left + wide) * width, (top + high) * height]
            np.testing.assert_allclose(found, box, atol=0.05)
            assert one.confidence == pytest.approx(float(score), abs=1e-4)
        total += len(detections)
    assert total > 10
    fout, config = names["fout"], names["config"]
    config.classes = config.classes[1:]  # negative control: no background
    names["dataset"].apply_model(fout.TorchImageModel(config), label_field="shifted")
    sample = names["dataset"].first()
    assert [one.label for one in sample["shifted"].detections] != [one.label for one in sample["effdet"].detections]
