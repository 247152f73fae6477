"""The search for anchors near a box finds what a comparison with all anchors finds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from effdet_torch.config import EfficientDetConfig, get_config
from effdet_torch.train.objective.matching import AnchorGrid
from support.quick import mostly_slow
from support.training import CONFIGS, dense_match

CONFIGURATIONS = [
    *CONFIGS.values(),
    get_config("d0", image_size=(97, 211)),  # strides that are not integers
    get_config("d0", image_size=128, anchor_scale=(1.0, 2.0, 4.0, 8.0, 0.5), num_scales=1),
    get_config("d0", image_size=(128, 1024), aspect_ratios=(0.01, 1.0, 50.0)),
]
repeatable = settings(max_examples=120, deadline=None, derandomize=True, database=None)


def corners(config: EfficientDetConfig) -> st.SearchStrategy[float]:
    """Ordinary corners, many of them equal; and those of huge boxes, tiny ones, and of some far outside."""
    largest = float(max(config.image_size))
    return st.one_of(
        st.integers(-4, int(largest / 4) + 4).map(lambda value: value * 4.0),
        st.floats(-largest, 2 * largest, width=32),
        st.sampled_from([-1e30, -1e6, 0.0, 1e-30, 1e-20, 1e-3, largest / 2, largest, 1e6, 1e30]),
    )


@st.composite
def boxes_of(draw: st.DrawFn, grid: AnchorGrid, config: EfficientDetConfig) -> NDArray[Any]:
    """Boxes by their corners, by a place and a size, and anchors themselves, moved a little or not at all."""
    corner, anchor = corners(config), st.integers(0, len(grid.anchors) - 1)
    size = st.sampled_from([0.0, 1e-30, 1e-22, 1e-3, 0.5, 2.0, 32.0, 33.3, 1e6])
    shift = st.sampled_from([0.0, 0.0, 1e-3, 4.0])
    by_corners = st.tuples(corner, corner, corner, corner).map(
        lambda box: (min(box[::2]), min(box[1::2]), max(box[::2]), max(box[1::2]))
    )
    by_size = st.tuples(corner, corner, size, size).map(
        lambda box: (box[0], box[1], float(np.float32(box[0] + box[2])), float(np.float32(box[1] + box[3])))
    )
    like_anchors = st.tuples(anchor, shift).map(lambda pair: tuple(map(float, grid.anchors[pair[0]] + pair[1])))
    boxes = draw(st.lists(st.one_of(by_corners, by_size, like_anchors), max_size=12))
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    return np.array(boxes, dtype).reshape(-1, 4)


@pytest.mark.parametrize("number", mostly_slow(range(len(CONFIGURATIONS)), (0, 3, 4, 5, 6)))
def test_every_box_gets_the_anchors_of_a_comparison_with_all(number: int) -> None:
    grid = AnchorGrid(CONFIGURATIONS[number])

    @repeatable
    @given(boxes_of(grid, CONFIGURATIONS[number]))
    def check(boxes: NDArray[Any]) -> None:
        for found, expected in zip(grid.match(boxes), dense_match(boxes, grid.anchors), strict=True):
            assert np.array_equal(found, expected)

    check()
