"""What is true of every model and every checkpoint, not only of examples."""

from __future__ import annotations

import random
from collections.abc import Mapping
from functools import cache

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from converter.plan.copies import View, select_view
from converter.plan.engine import account
from converter.plan.expand import Plan
from converter.source import VariableInfo
from effdet_torch.config import EfficientDetConfig, get_config
from support.sources import (
    EMA,
    Array,
    MemorySource,
    architecture_of,
    averages,
    converted,
    placeholders,
    plan_of,
    reverted,
    seeded,
    shapes_of,
)
from support.variable_shapes import variable_shapes

few = settings(max_examples=12, deadline=None)
many = settings(max_examples=60, deadline=None)


@st.composite
def configs(draw: st.DrawFn, redundant_bias: bool = False) -> EfficientDetConfig:
    """Small models, with every switch of the architecture."""
    return get_config(
        draw(st.sampled_from(["d0", "lite0"])),
        fpn_channels=draw(st.sampled_from([8, 24, 40, 112, 320])),  # some equal a backbone feature's channels
        fpn_cells=draw(st.integers(1, 2)),
        head_repeats=draw(st.integers(1, 2)),
        max_level=draw(st.integers(5, 8)),
        fusion=draw(st.sampled_from(["fastattn", "attn", "sum"])),
        num_classes=draw(st.sampled_from([1, 3])),
        num_scales=draw(st.integers(1, 3)),
        aspect_ratios=draw(st.sampled_from([(1.0,), (1.0, 2.0)])),
        redundant_bias=redundant_bias,
    )


def identical(a: dict[str, Array], b: dict[str, Array]) -> bool:
    return a.keys() == b.keys() and all(a[k].tobytes() == b[k].tobytes() and a[k].shape == b[k].shape for k in a)


@given(configs(redundant_bias=True), st.integers(0, 9))
@few
def test_reverting_a_conversion_returns_the_variables_bit_for_bit(config: EfficientDetConfig, seed: int) -> None:
    plan = plan_of(config)
    arrays = seeded(plan, seed)
    assert identical(reverted(converted(plan, arrays), plan), arrays)


@given(configs(), st.integers(0, 9))
@few
def test_folding_changes_nothing_but_biases_and_means(config: EfficientDetConfig, seed: int) -> None:
    plan = plan_of(config)
    arrays = seeded(plan, seed)
    expected = dict(arrays)
    for entry in plan.entries:
        if entry.folds is not None:
            (mean,) = entry.sources
            expected[mean] = arrays[mean] - arrays[entry.folds]
            expected[entry.folds] = np.zeros_like(arrays[entry.folds])
    folded = [name for name in arrays if not np.array_equal(expected[name], arrays[name])]
    assert all(name.endswith(("/bias", "/moving_mean")) for name in folded)
    # Every BiFPN node, every head repeat: at least these have a bias to fold.
    assert len([name for name in folded if name.endswith("/bias")]) >= len(config.nodes) + 2 * config.head_repeats
    state = converted(plan, arrays)
    assert identical(reverted(state, plan), expected)
    assert identical(converted(plan, expected), state)


@given(configs(), st.integers(0, 999))
@few
def test_the_order_of_the_variables_changes_nothing(config: EfficientDetConfig, seed: int) -> None:
    plan = plan_of(config)
    arrays = seeded(plan)
    shuffled = list(arrays.items())
    random.Random(seed).shuffle(shuffled)
    assert [name for name, _ in shuffled] != list(arrays)
    assert architecture_of(dict(shuffled)) == architecture_of(arrays)
    ours, theirs = converted(plan, arrays), converted(plan, dict(shuffled))
    assert list(ours) == list(theirs)
    assert identical(ours, theirs)


@given(configs())
@few
def test_variables_are_those_of_the_description_by_which_they_are_recognised(config: EfficientDetConfig) -> None:
    assert plan_of(config).variables == variable_shapes(config)
    found = architecture_of(placeholders(plan_of(config)))
    assert found.matches(config)
    assert found.num_classes == config.num_classes
    assert found.anchors_per_location == config.anchors_per_location


# One official model, and one name or shape of it that is wrong.


@cache
def checkpoint(variant: str) -> tuple[Plan, dict[str, VariableInfo], View]:
    """Return plan, both copies as an index has them, and the view of the averages."""
    plan = plan_of(variant)
    raw = placeholders(plan)
    source = MemorySource(raw | averages(raw), data=False)
    return plan, dict(source.variables), select_view(source, plan)


def problems(variant: str, variables: Mapping[str, VariableInfo]) -> list[str]:
    plan, _, view = checkpoint(variant)
    return account(variables, plan, view).problems


def stored(variant: str, view: str) -> st.SearchStrategy[str]:
    return st.sampled_from([name for name in checkpoint(variant)[1] if name.endswith(EMA) == (view == "ema")])


variants = st.sampled_from(["d0", "d6", "lite0"])


@given(variants, st.data())
@many
def test_without_any_one_variable_exactly_that_one_is_missing(variant: str, data: st.DataObject) -> None:
    gone = data.draw(stored(variant, "ema"))
    rest = {name: info for name, info in checkpoint(variant)[1].items() if name != gone}
    assert problems(variant, rest) == [f"missing: {gone}"]


@given(variants, st.data())
@many
def test_a_missing_copy_that_is_not_converted_is_no_problem(variant: str, data: st.DataObject) -> None:
    """Negative control: what is reported as missing depends on the view, not on the count."""
    gone = data.draw(stored(variant, "raw"))
    rest = {name: info for name, info in checkpoint(variant)[1].items() if name != gone}
    assert problems(variant, rest) == []


# Names that look like a checkpoint's, and any others.
names = st.one_of(
    st.text(max_size=40),
    st.lists(
        st.sampled_from(
            ["class_net", "class-0", "bias", "Momentum", "Adam_2", EMA, "blocks_99", "{variable}", "WSM_3"]
        ),
        min_size=1,
        max_size=4,
    ).map("/".join),
    st.sampled_from(sorted(plan_of("d0").variables)).flatmap(
        lambda name: st.sampled_from(
            [f"{name}_1", f"{name}:0", f" {name}", name.upper(), f"{name}/{EMA}/{EMA}", f"{name}/v"]
        )
    ),
)


@given(variants, names)
@many
def test_with_any_other_name_exactly_that_one_is_unexpected(variant: str, name: str) -> None:
    plan, variables, _ = checkpoint(variant)
    known = {template.format(variable=v, backbone="b") for template, _ in plan.ignored for v in plan.variables}
    assume(name not in variables and name not in known)
    assert problems(variant, {**variables, name: VariableInfo("float32", (1,))}) == [f"unexpected: {name}"]


@given(variants, st.lists(st.integers(0, 9), max_size=5).map(tuple), st.booleans(), st.data())
@many
def test_with_any_other_shape_exactly_that_variable_is_mismatched(
    variant: str, wrong: tuple[int, ...], permuted: bool, data: st.DataObject
) -> None:
    variables, name = checkpoint(variant)[1], data.draw(stored(variant, "ema"))
    right = variables[name].shape
    wrong = right[::-1] if permuted else wrong
    assume(wrong != right)
    changed = {**variables, name: VariableInfo("float32", wrong)}
    assert problems(variant, changed) == [f"mismatched: {name} has shape {wrong}; expected {right}"]


@pytest.mark.parametrize("variant", ["d0", "d6", "lite0"])
def test_the_whole_checkpoint_has_no_problem(variant: str) -> None:
    """Negative control of the tests above."""
    assert problems(variant, checkpoint(variant)[1]) == []


def test_exchanging_two_variables_of_one_shape_is_noticed_in_the_result() -> None:
    """Negative control: checks of names and shapes cannot see this, only the values of the result can."""
    plan = plan_of("d0")
    arrays = seeded(plan)
    a, b = "class_net/class-0-bn-3/gamma", "class_net/class-0-bn-4/gamma"
    swapped = arrays | {a: arrays[b], b: arrays[a]}
    assert problems("d0", shapes_of(swapped | averages(swapped))) == []
    ours, theirs = converted(plan, arrays), converted(plan, swapped)
    assert [key for key in ours if not np.array_equal(ours[key], theirs[key])] == [
        "class_net.bn_rep.0.0.bn.weight",
        "class_net.bn_rep.0.1.bn.weight",
    ]
