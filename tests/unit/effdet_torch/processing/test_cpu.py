"""Outputs that do not belong to the configuration beside them, as in a file whose metadata are another file's."""

from __future__ import annotations

import numpy as np
import pytest

from effdet_torch.config import get_config
from effdet_torch.errors import ConfigError
from effdet_torch.geometry.anchors import anchors_yxyx
from effdet_torch.processing.cpu import CpuProcessing, FileProcessing
from effdet_torch.processing.profiles import PROFILES

CONFIG = get_config("d0", num_classes=3, image_size=(128, 128))
SCALES = np.ones(1, np.float32)


def outputs(num_values: int) -> list[np.ndarray]:
    """Zeros for every level of an image of 128 x 128 pixels."""
    return [np.zeros((1, 9 * num_values, side, side), np.float32) for side in (16, 8, 4, 2, 1)]


def test_another_number_of_classes_is_refused() -> None:
    assert sum(level[0].size for level in outputs(4)) == anchors_yxyx(CONFIG).size
    processing, profile = CpuProcessing(CONFIG), PROFILES["official-eval"]
    assert len(processing.detections(outputs(3), outputs(4), SCALES, profile)[0].scores) == 100
    with pytest.raises(ConfigError, match="returned 18 class logits per location; expected 27 for 3 classes"):
        processing.detections(outputs(2), outputs(4), SCALES, profile)


def test_a_class_that_the_model_does_not_have_is_refused() -> None:
    boxes, scores, count = np.zeros((1, 2, 4), np.float32), np.ones((1, 2), np.float32), np.array([2])
    processing, profile = FileProcessing(CONFIG), PROFILES["serving"]
    found = processing.detections([boxes, scores], [np.array([[1, 3]]), count], SCALES, profile)
    assert found[0].classes.tolist() == [1, 3]
    with pytest.raises(ConfigError, match="a detection of class 4; expected 1 to 3"):
        processing.detections([boxes, scores], [np.array([[1, 4]]), count], SCALES, profile)
