"""Anchors against the official ones, bit for bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from effdet_torch.config import EfficientDetConfig, get_config, list_models
from effdet_torch.geometry.anchors import make_anchors_yxyx


def _matches(config: EfficientDetConfig, path: Path) -> bool:
    with np.load(path) as golden:
        anchors = make_anchors_yxyx(config).numpy()
        if len(anchors) != golden["count"]:
            return False
        return bool(np.array_equal(anchors[golden["index"]], golden["boxes_yxyx"]))


@pytest.mark.parametrize("name", ["d0", "d0_384x640", "d1", "d2", "d6", "d7x", "lite0", "lite2", "lite4"])
def test_equal_to_the_official_anchors(shared: Path, name: str) -> None:
    variant, _, size = name.partition("_")
    height, width = map(int, size.split("x")) if size else get_config(variant).image_size
    path = shared / "reference" / "golden" / f"{variant}_anchors_{size or height}.npz"
    config = get_config(variant, image_size=(height, width))
    assert _matches(config, path)
    # Controls: each setting matters, the order of aspect ratios and of height and width included.
    ratios = config.aspect_ratios
    assert not _matches(get_config(variant, image_size=(height, width), aspect_ratios=ratios[::-1]), path)
    assert not _matches(get_config(variant, image_size=(height, width), anchor_scale=3.5), path)
    assert not _matches(get_config(variant, image_size=(height, width + 128)), path)
    if size:
        assert not _matches(get_config(variant, image_size=(width, height)), path)


@pytest.mark.parametrize("variant", list_models())
def test_one_anchor_per_output(variant: str) -> None:
    config = get_config(variant)
    locations = sum(height * width for height, width in config.feature_sizes().values())
    anchors = make_anchors_yxyx(config)
    assert anchors.shape == (locations * config.anchors_per_location, 4)
    assert anchors.dtype == torch.float32
    assert (anchors[:, 2:] > anchors[:, :2]).all()
    anchors.zero_()
    assert make_anchors_yxyx(config).any()  # the result belongs to the caller


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


def test_pairs_are_factors_of_width_and_height() -> None:
    """A number r stands for the pair (sqrt(r), 1 / sqrt(r)), as in the official code."""
    pairs = get_config("d0", image_size=128, aspect_ratios=((1.0, 1.0), (1.4, 0.7), (0.7, 1.4)))
    anchors = make_anchors_yxyx(pairs)[:9].double()
    height, width = anchors[:, 2] - anchors[:, 0], anchors[:, 3] - anchors[:, 1]
    torch.testing.assert_close(width[:3], torch.tensor([32.0, 44.8, 22.4], dtype=torch.float64), atol=1e-4, rtol=0)
    torch.testing.assert_close(height[:3], torch.tensor([32.0, 22.4, 44.8], dtype=torch.float64), atol=1e-4, rtol=0)
    roots = tuple((ratio**0.5, ratio**-0.5) for ratio in (1.0, 2.0, 0.5))
    same = make_anchors_yxyx(get_config("d0", image_size=128, aspect_ratios=roots))
    torch.testing.assert_close(same, make_anchors_yxyx(get_config("d0", image_size=128)), atol=1e-4, rtol=0)


def test_other_levels_have_other_strides() -> None:
    config = get_config("d0", image_size=128, min_level=2, max_level=5)
    first = make_anchors_yxyx(config)[0]
    assert first.tolist() == [-6.0, -6.0, 10.0, 10.0]  # stride 4, scale 4
    assert len(make_anchors_yxyx(config)) == 9 * (32**2 + 16**2 + 8**2 + 4**2)
