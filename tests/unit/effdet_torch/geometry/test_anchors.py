"""Anchors against the official ones, bit for bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from effdet_torch.config import EfficientDetConfig, get_config, list_models
from effdet_torch.geometry.anchors import make_anchors_yxyx

GOLDEN = [
    ("d0", 512, 512),
    ("d0", 384, 640),
    ("d1", 640, 640),
    ("d2", 768, 768),
    ("d6", 1280, 1280),
    ("d7x", 1536, 1536),
    ("lite0", 320, 320),
    ("lite2", 448, 448),
    ("lite4", 640, 640),
]


def _matches(config: EfficientDetConfig, path: Path) -> bool:
    with np.load(path) as golden:
        anchors = make_anchors_yxyx(config).numpy()
        if len(anchors) != golden["count"]:
            return False
        return bool(np.array_equal(anchors[golden["index"]], golden["boxes_yxyx"]))


@pytest.mark.parametrize(("variant", "height", "width"), GOLDEN)
def test_equal_to_the_official_anchors(shared: Path, variant: str, height: int, width: int) -> None:
    size = str(height) if height == width else f"{height}x{width}"
    path = shared / "reference" / "golden" / f"{variant}_anchors_{size}.npz"
    config = get_config(variant, image_size=(height, width))
    assert _matches(config, path)
    # Controls: each setting matters, the order of aspect ratios and of height and width included.
    ratios = config.aspect_ratios
    assert not _matches(get_config(variant, image_size=(height, width), aspect_ratios=ratios[::-1]), path)
    assert not _matches(get_config(variant, image_size=(height, width), anchor_scale=3.5), path)
    assert not _matches(get_config(variant, image_size=(height, width + 128)), path)
    if height != width:
        assert not _matches(get_config(variant, image_size=(width, height)), path)


@pytest.mark.parametrize("variant", list_models())
def test_one_anchor_per_output(variant: str) -> None:
    config = get_config(variant)
    locations = sum(height * width for height, width in config.feature_sizes().values())
    anchors = make_anchors_yxyx(config)
    assert anchors.shape == (locations * config.anchors_per_location, 4)
    assert anchors.dtype == torch.float32
    assert (anchors[:, 2:] > anchors[:, :2]).all()


def test_order_and_size_of_the_first_location() -> None:
    config = get_config("d0", num_scales=2, aspect_ratios=(1.0, 4.0))
    anchors = make_anchors_yxyx(config)[:8].double()
    height, width = anchors[:, 2] - anchors[:, 0], anchors[:, 3] - anchors[:, 1]
    base = 4.0 * 8
    expected = torch.tensor([base, 2 * base, base * 2**0.5, 2 * base * 2**0.5] * 2, dtype=torch.float64)
    torch.testing.assert_close(width, expected, atol=1e-4, rtol=0)  # aspect ratio is the faster index, then octave
    torch.testing.assert_close(width / height, torch.tensor([1.0, 4.0] * 4, dtype=torch.float64), atol=1e-5, rtol=0)
    center = (anchors[:, :2] + anchors[:, 2:]) / 2
    torch.testing.assert_close(center[:4], torch.full((4, 2), 4.0, dtype=torch.float64), atol=1e-5, rtol=0)
    torch.testing.assert_close(center[4:, 1], torch.full((4,), 12.0, dtype=torch.float64), atol=1e-5, rtol=0)  # x first


def test_odd_size_has_a_fractional_stride() -> None:
    anchors = make_anchors_yxyx(get_config("lite0", image_size=(320, 330)))
    center_x = (anchors[-9, 1] + anchors[-9, 3]) / 2  # last location of P7: 3 x 3 locations, stride 110
    assert center_x == pytest.approx(2.5 * 110)


def test_result_belongs_to_the_caller() -> None:
    config = get_config("d0", image_size=128)
    make_anchors_yxyx(config).zero_()
    assert make_anchors_yxyx(config).abs().sum() > 0
