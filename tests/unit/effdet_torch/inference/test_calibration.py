"""Photographs to calibrate with are what the network takes, as often as they are read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from effdet_torch import Predictor
from effdet_torch.errors import UsageError
from effdet_torch.inference.calibration import CalibrationImages
from effdet_torch.inference.images import ImageError
from support.coco_samples import small_model


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two photographs, the second one turned by its EXIF orientation."""
    for number in range(2):
        pixels = np.random.default_rng(number).integers(0, 256, (40, 70, 3), np.uint8)
        exif = Image.Exif()
        exif[0x0112] = 6 if number else 1
        Image.fromarray(pixels).save(tmp_path / f"{number}.png", exif=exif)
    return tmp_path


def test_they_are_the_network_s_input(photos: Path) -> None:
    model, calls = small_model(), list[tuple[int, int]]()
    images = CalibrationImages([str(photos)], model.config, (96, 64), lambda *call: calls.append(call))
    assert len(images) == 2
    expected, _ = Predictor(model, image_size=(96, 64)).prepare([photos / "0.png", photos / "1.png"])
    for _ in range(2):
        found = np.concatenate(list(images))
        assert np.array_equal(found, expected)
    assert not np.array_equal(found[0], found[1])
    assert calls == [(1, 2), (2, 2)] * 2


def test_what_cannot_be_read_is_refused(photos: Path) -> None:
    with pytest.raises(UsageError, match="no image found"):
        CalibrationImages([str(photos / "none")], small_model().config)
    (photos / "2.png").write_bytes(b"no picture")
    with pytest.raises(ImageError, match=r"2\.png"):
        list(CalibrationImages([str(photos)], small_model().config))
