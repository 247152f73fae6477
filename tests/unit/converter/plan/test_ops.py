"""Operations against plain loops over the axes that their names promise."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from converter.plan.ops import OPS, Array, Channels, Op, arranged

kernels = hnp.arrays(
    np.float32, hnp.array_shapes(min_dims=4, max_dims=4, max_side=5), elements=st.floats(-9, 9, width=32)
)
fast = settings(max_examples=40, deadline=None)


def is_reversible(op: Op, sources: list[Array]) -> bool:
    """Whether the inverse returns the sources, bit for bit, and the shape was predicted."""
    target, shapes = op.convert(sources), [source.shape for source in sources]
    reverted = op.revert(target, shapes)
    same = all(np.array_equal(a, b) and a.shape == b.shape for a, b in zip(reverted, sources, strict=True))
    return same and target.shape == op.target_shape(shapes)


@given(kernels)
@fast
def test_conv_moves_hwio_to_oihw_and_back(kernel: Array) -> None:
    converted = OPS["conv"].convert([kernel])
    for h, w, i, o in itertools.product(*map(range, kernel.shape)):
        assert converted[o, i, h, w] == kernel[h, w, i, o]
    assert is_reversible(OPS["conv"], [kernel])


@given(kernels)
@fast
def test_depthwise_moves_hwim_to_im1hw_and_back(kernel: Array) -> None:
    converted, multiplier = OPS["depthwise"].convert([kernel]), kernel.shape[3]
    for h, w, i, m in itertools.product(*map(range, kernel.shape)):
        assert converted[i * multiplier + m, 0, h, w] == kernel[h, w, i, m]
    assert is_reversible(OPS["depthwise"], [kernel])


@given(st.lists(st.floats(-9, 9, width=32), min_size=1, max_size=4))
@fast
def test_stack_keeps_the_order_and_keep_changes_nothing(scalars: list[float]) -> None:
    sources: list[Array] = [np.array(value, np.float32) for value in scalars]
    assert OPS["stack"].convert(sources).tolist() == scalars
    assert is_reversible(OPS["stack"], sources)
    assert OPS["keep"].convert(sources[:1]) is sources[0]
    assert is_reversible(OPS["keep"], sources[:1])


@given(hnp.arrays(np.float32, (2, 7), elements=st.floats(-9, 9, width=32)))
@fast
def test_fold_bias_subtracts_in_the_dtype_of_the_values(both: Array) -> None:
    mean, bias = both
    op = OPS["fold_bias"]
    folded = op.convert([mean, bias])
    assert folded.dtype == np.float32
    assert np.array_equal(folded, mean - bias)
    # The inverse belongs to a zero bias: folding that again changes nothing.
    (reverted,) = op.revert(folded, [mean.shape])
    (zero,) = OPS["redundant_bias"].revert(np.zeros(0), [bias.shape])
    assert not zero.any()
    assert zero.shape == bias.shape
    assert np.array_equal(op.convert([reverted, zero]), folded)
    assert op.target_shape([mean.shape]) == folded.shape


def test_folding_preserves_the_function_of_the_batch_norm() -> None:
    rng = np.random.default_rng(0)
    x, mean, bias, scale = rng.normal(size=(4, 6))
    folded = OPS["fold_bias"].convert([mean, bias])
    np.testing.assert_allclose(((x + bias) - mean) * scale, (x - folded) * scale, rtol=1e-13)


def test_operations_without_a_tensor_or_a_variable() -> None:
    bias, count = OPS["redundant_bias"], OPS["zero_count"]
    assert bias.convert([np.ones(5, np.float32)]).shape == bias.target_shape([(5,)]) == (0,)
    made = count.convert([])
    assert (made.dtype, made.shape, int(made)) == (np.int64, count.target_shape([]), 0)
    assert count.revert(made, []) == []


@pytest.mark.parametrize(
    ("name", "right", "wrong"),
    [
        ("conv", [[(1,) * 4]], [[(1, 1, 1)], [(1,) * 4, (1,) * 4]]),
        ("depthwise", [[(1,) * 4]], [[(1,)]]),
        ("keep", [[(1,)], [()]], [[], [(1,), (1,)]]),
        ("stack", [[(), ()]], [[]]),
        ("zero_count", [[]], [[(1,)]]),
        ("redundant_bias", [[(1,)]], [[]]),
        ("fold_bias", [[(1,)]], [[(1,), (1,)]]),
    ],
)
def test_accepts_only_sources_that_the_inverse_returns(
    name: str, right: list[list[tuple[int, ...]]], wrong: list[list[tuple[int, ...]]]
) -> None:
    assert all(OPS[name].accepts(shapes) for shapes in right)
    assert not any(OPS[name].accepts(shapes) for shapes in wrong)


def test_a_wrong_inverse_is_noticed() -> None:
    """Negative control: on kernels with two equal sides only the values differ, not the shapes."""
    right = OPS["conv"]
    swapped = Op(right.convert, lambda target, _: [target.transpose(3, 2, 1, 0)], right.target_shape)
    kernel = np.arange(2 * 2 * 3 * 4, dtype=np.float32).reshape(2, 2, 3, 4)
    assert is_reversible(right, [kernel])
    assert not is_reversible(swapped, [kernel])


def test_a_column_becomes_a_row_of_numbers_and_back() -> None:
    assert OPS["column"].convert([np.array([[1.0], [2.0]], np.float32)]).tolist() == [1.0, 2.0]
    assert is_reversible(OPS["column"], [np.array([[1.0], [2.0]], np.float32)])


@given(kernels, st.randoms(use_true_random=False))
@fast
def test_channels_are_arranged_and_back(kernel: Array, chance: random.Random) -> None:
    order = list(range(kernel.shape[3]))
    chance.shuffle(order)
    op = arranged("arranged_conv", Channels(tuple(order), (1.0,) * len(order)))
    converted = op.convert([kernel])
    for ours, theirs in enumerate(order):
        assert np.array_equal(converted[ours], OPS["conv"].convert([kernel])[theirs])
    assert op.is_exact
    assert is_reversible(op, [kernel])
    divided = arranged("arranged_conv", Channels(tuple(order), (10.0,) * len(order)))
    assert not divided.is_exact
    assert np.array_equal(divided.convert([kernel]), converted / np.float32(10))
    (back,) = divided.revert(divided.convert([kernel]), [kernel.shape])
    np.testing.assert_allclose(back, kernel, rtol=1e-6, atol=1e-36)


def test_a_bias_is_arranged() -> None:
    op = arranged("arranged", Channels((2, 0, 1), (1.0, 2.0, 5.0)))
    assert op.convert([np.array([1, 5, 3], np.float32)]).tolist() == [3.0, 0.5, 1.0]
    assert is_reversible(op, [np.array([1, 5, 3], np.float32)])
