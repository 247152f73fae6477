"""The pixels of the CPU path against those of the torch version, bit for bit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from effdet_torch.config import Resize, get_config
from effdet_torch.errors import EffdetError
from effdet_torch.processing import preprocess as in_torch
from effdet_torch.processing.numpy_preprocess import preprocess
from effdet_torch.train.input.example import View
from effdet_torch.train.input.placement import Placement

CONFIG = get_config("d0", image_size=(96, 160))


@settings(max_examples=80, deadline=None, derandomize=True, database=None)
@given(
    st.lists(st.tuples(st.integers(1, 400), st.integers(1, 400)), min_size=1, max_size=3),
    st.sampled_from([(96, 160), (128, 128), (96, 480)]),
    st.sampled_from(["mean_std", "scale_range", "advprop"]),
    st.sampled_from(["half_pixel", "legacy"]),
)
def test_equals_torch(sizes: list[tuple[int, int]], canvas: tuple[int, int], normalization: str, resize: str) -> None:
    random = np.random.default_rng(sum(map(sum, sizes)))
    images = [random.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]
    config = get_config("d0", image_size=canvas, normalization=normalization, resize=resize)
    for found, expected in zip(preprocess(images, config), in_torch.preprocess(images, config), strict=True):
        np.testing.assert_array_equal(found, expected.numpy(), strict=True)


def test_the_comparison_sees_one_bit() -> None:
    """Negative control: the smallest change of a mean."""
    image = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    other = replace(CONFIG, mean_rgb=(*CONFIG.mean_rgb[:2], float(np.nextafter(np.float32(CONFIG.mean_rgb[2]), 0))))
    assert not np.array_equal(preprocess([image], other)[0], in_torch.preprocess([image], CONFIG)[0].numpy())


def test_images_of_any_memory_layout_are_not_changed() -> None:
    image = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    expected = preprocess([image], CONFIG)[0]
    planes = np.ascontiguousarray(image.transpose(2, 0, 1))
    planes.flags.writeable = False
    for view in (planes.transpose(1, 2, 0), np.ascontiguousarray(image[::-1])[::-1], np.asfortranarray(image)):
        np.testing.assert_array_equal(preprocess([view], CONFIG)[0], expected)
        assert torch.equal(in_torch.preprocess([view], CONFIG)[0], torch.from_numpy(expected))
    np.testing.assert_array_equal(planes.transpose(1, 2, 0), image)


@pytest.mark.parametrize("shape", [(10, 10), (10, 10, 4), (3, 10, 10), (0, 10, 3), None])
def test_not_an_rgb_image_and_no_image(shape: tuple[int, ...] | None) -> None:
    with pytest.raises(EffdetError, match="expected RGB" if shape else "no images"):
        preprocess([np.zeros(shape, np.uint8)] if shape else [], CONFIG)


@pytest.mark.parametrize("resize", ["half_pixel", "legacy"])
@pytest.mark.parametrize("size", [(50, 71), (201, 97)])
def test_training_places_images_with_the_same_arithmetic(resize: Resize, size: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    config = replace(CONFIG, resize=resize)
    canvas, empty = np.ones((3, *config.image_size), np.float32), np.zeros((3, 1, 1), np.float32)
    Placement.of(size, View(), config.image_size, resize=resize).draw(image, canvas, empty, config)
    np.testing.assert_array_equal(canvas, preprocess([image], config)[0][0])
    other = replace(config, resize="legacy" if resize == "half_pixel" else "half_pixel")
    assert np.abs(canvas - preprocess([image], other)[0][0]).max() > 1e-2  # negative control
