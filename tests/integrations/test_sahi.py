"""SAHI takes a model by torchvision's contract: whole images, and slices whose boxes come back in place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from effdet_torch import Predictor
from support.guests import run_sections

pytestmark = [pytest.mark.guest, pytest.mark.filterwarnings("default")]


def rows(objects: list[Any]) -> list[tuple[str, float, list[float]]]:
    """Return name, score and box of every prediction, best first."""
    found = [(one.category.name, one.score.value, one.bbox.to_xyxy()) for one in objects]
    return sorted(found, key=lambda row: -row[1])


def ours(pixels: np.ndarray, shift: int = 0) -> list[tuple[str, float, list[float]]]:
    """Return the same of the predictor, with boxes inside the image."""
    (found,) = Predictor("d0.pth", score_threshold=0.3)(pixels)
    height, width = pixels.shape[:2]
    boxes = np.clip(found.boxes_xyxy, 0, [width, height, width, height]) + np.array([shift, 0, shift, 0])
    return [(name, float(score), list(box)) for name, score, box in zip(found.names, found.scores, boxes, strict=True)]


def assert_alike(found: list[tuple[str, float, list[float]]], expected: list[tuple[str, float, list[float]]]) -> None:
    assert [row[0] for row in found] == [row[0] for row in expected]
    for one, other in zip(found, expected, strict=True):
        assert one[1] == pytest.approx(other[1], abs=1e-4)
        np.testing.assert_allclose(one[2], other[2], atol=0.05)


def test_predictions_are_ours(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from sahi.predict import get_prediction, get_sliced_prediction

    names = run_sections("torchvision's contract", "SAHI")
    model = names["model"]
    assert len(names["result"].object_prediction_list) > 3
    assert "orange" in capsys.readouterr().out
    pixels = np.array(Image.open("photo.jpg").convert("RGB"))
    expected = ours(pixels)
    assert len(expected) > 3
    assert_alike(rows(get_prediction("photo.jpg", model).object_prediction_list), expected)
    with pytest.raises(AssertionError):  # negative control: red and blue exchanged
        assert_alike(rows(get_prediction(pixels[..., ::-1].copy(), model).object_prediction_list), expected)

    height, width = pixels.shape[:2]
    both = np.concatenate([pixels, pixels], axis=1)
    sliced = get_sliced_prediction(
        both,
        model,
        slice_height=height,
        slice_width=width,
        overlap_height_ratio=0,
        overlap_width_ratio=0,
        perform_standard_pred=False,
        postprocess_match_threshold=1.0,  # merges nothing
    )
    found = sorted(rows(sliced.object_prediction_list), key=lambda row: row[2][0] >= width)
    assert_alike(found[: len(expected)], expected)
    assert_alike(found[len(expected) :], ours(pixels, width))
