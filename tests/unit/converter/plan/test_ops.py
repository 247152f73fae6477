"""Operations against plain loops over the axes that their names promise."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from converter.plan.ops import OPS, Array, Op

kernels = hnp.arrays(
    np.float32, hnp.array_shapes(min_dims=4, max_dims=4, max_side=5), elements=st.floats(-9, 9, width=32)
)
vectors = hnp.arrays(np.float32, hnp.array_shapes(max_dims=3, max_side=6), elements=st.floats(-9, 9, width=32))
fast = settings(max_examples=40, deadline=None)


def comes_back(op: Op, sources: list[Array]) -> bool:
    """Whether the inverse gives the sources back, bit for bit, and the shape was foretold."""
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
    assert comes_back(OPS["conv"], [kernel])


@given(kernels)
@fast
def test_depthwise_moves_hwim_to_im1hw_and_back(kernel: Array) -> None:
    converted, multiplier = OPS["depthwise"].convert([kernel]), kernel.shape[3]
    for h, w, i, m in itertools.product(*map(range, kernel.shape)):
        assert converted[i * multiplier + m, 0, h, w] == kernel[h, w, i, m]
    assert comes_back(OPS["depthwise"], [kernel])


@given(st.lists(st.floats(-9, 9, width=32), min_size=1, max_size=4))
@fast
def test_stack_keeps_the_order_and_comes_apart(scalars: list[float]) -> None:
    sources: list[Array] = [np.array(value, np.float32) for value in scalars]
    assert OPS["stack"].convert(sources).tolist() == scalars
    assert comes_back(OPS["stack"], sources)


@given(vectors)
@fast
def test_keep_changes_nothing(vector: Array) -> None:
    assert OPS["keep"].convert([vector]) is vector
    assert comes_back(OPS["keep"], [vector])


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


def test_folding_leaves_the_batch_norm_the_same_function() -> None:
    rng = np.random.default_rng(0)
    x, mean, bias, scale = rng.normal(size=(4, 6))
    folded = OPS["fold_bias"].convert([mean, bias])
    np.testing.assert_allclose(((x + bias) - mean) * scale, (x - folded) * scale, rtol=1e-13)


def test_a_redundant_bias_leaves_no_values() -> None:
    op = OPS["redundant_bias"]
    assert op.convert([np.ones(5, np.float32)]).shape == op.target_shape([(5,)]) == (0,)


def test_zero_count_is_made_of_nothing() -> None:
    op = OPS["zero_count"]
    made = op.convert([])
    assert made.dtype == np.int64
    assert made.shape == op.target_shape([]) == ()
    assert int(made) == 0
    assert op.revert(made, []) == []


@pytest.mark.parametrize(
    ("name", "shapes"),
    [
        ("conv", [(1, 1, 1)]),
        ("conv", [(1,) * 4, (1,) * 4]),
        ("depthwise", [(1,)]),
        ("keep", []),
        ("keep", [(1,), (1,)]),
        ("stack", []),
        ("zero_count", [(1,)]),
        ("redundant_bias", []),
        ("fold_bias", [(1,), (1,)]),
    ],
)
def test_refuses_sources_that_it_would_drop_or_misread(name: str, shapes: list[tuple[int, ...]]) -> None:
    assert not OPS[name].accepts(shapes)


@pytest.mark.parametrize(
    ("name", "shapes"),
    [
        ("conv", [(1,) * 4]),
        ("depthwise", [(1,) * 4]),
        ("keep", [(1,)]),
        ("keep", [()]),
        ("stack", [(), ()]),
        ("zero_count", []),
        ("redundant_bias", [(1,)]),
        ("fold_bias", [(1,)]),
    ],
)
def test_accepts_what_it_is_made_for(name: str, shapes: list[tuple[int, ...]]) -> None:
    assert OPS[name].accepts(shapes)


def test_a_wrong_inverse_would_be_noticed() -> None:
    """Negative control: on kernels with two equal sides only values tell, not shapes."""
    right = OPS["conv"]
    swapped = Op(right.convert, lambda target, _: [target.transpose(3, 2, 1, 0)], right.target_shape)
    kernel = np.arange(2 * 2 * 3 * 4, dtype=np.float32).reshape(2, 2, 3, 4)
    assert comes_back(right, [kernel])
    assert not comes_back(swapped, [kernel])
