"""supervision takes what a predictor found."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from support.guests import run_sections

pytestmark = [pytest.mark.guest, pytest.mark.filterwarnings("default")]


def test_its_detections_are_ours(place: Path) -> None:
    import supervision as sv

    names = run_sections("supervision")
    found, detections = names["found"], names["detections"]
    assert isinstance(detections, sv.Detections)
    np.testing.assert_array_equal(detections.xyxy, found.boxes_xyxy)
    np.testing.assert_array_equal(detections.confidence, found.scores)
    np.testing.assert_array_equal(detections.class_id, found.category_ids)
    assert list(detections["class_name"]) == found.names
    assert len(names["people"]) == 0  # this photo has none
    oranges = detections[detections["class_name"] == "orange"]
    assert 0 < len(oranges) < len(detections)
    assert set(oranges.class_id) == {55}


def test_its_tools_take_them(place: Path) -> None:
    import supervision as sv

    detections = run_sections("supervision")["detections"]
    scene = np.array(Image.open("photo.jpg").convert("RGB"))
    drawn = sv.LabelAnnotator().annotate(sv.BoxAnnotator().annotate(scene.copy(), detections), detections)
    assert (drawn != scene).any()
    assert len(detections.with_nms(threshold=0.99, class_agnostic=False)) == len(detections)
    exact = sv.metrics.MeanAveragePrecision().update([detections], [detections]).compute()
    assert exact.map50_95 == pytest.approx(1.0)
    moved = sv.Detections(detections.xyxy + 100, confidence=detections.confidence, class_id=detections.class_id)
    wrong = sv.metrics.MeanAveragePrecision().update([moved], [detections]).compute()  # negative control
    assert wrong.map50_95 < 0.5


def test_no_detections(place: Path) -> None:
    from effdet_torch import Predictor

    (found,) = Predictor("d0.pth", score_threshold=1.0)(np.zeros((64, 64, 3), np.uint8))
    detections = found.to_supervision()
    assert len(detections) == 0
    assert detections.xyxy.shape == (0, 4)
