"""Accounting for every variable, and the two directions of the conversion.

What holds for every model and name is in tests/property/test_conversion_properties.py.
"""

from __future__ import annotations

import numpy as np
import pytest

from converter.errors import AccountingError
from converter.plan.copies import select_view
from converter.plan.engine import SHOWN, STATE, Accounting, account, account_state_dict, convert
from support.sources import (
    EMA,
    Array,
    MemorySource,
    averages,
    converted,
    placeholders,
    plan_of,
    reverted,
    seeded,
    small_config,
)

PLAN, KEPT = plan_of(small_config()), plan_of(small_config(redundant_bias=True))
RAW = placeholders(PLAN)
STEP = np.array(1, np.int64)
STRANGER = np.zeros(1, np.float32)
BIAS = "box_net/box-0/bias"


def accounting_of(arrays: dict[str, Array]) -> Accounting:
    source = MemorySource(arrays)
    found = account(source.variables, PLAN, select_view(source, PLAN, "raw"))
    assert source.reads == []
    return found


def test_every_stored_variable_is_listed_once() -> None:
    slots = {f"{name}/{slot}": array for name, array in RAW.items() for slot in ("Momentum", "Adam", "Adam_1")}
    extra = {"global_step": STEP, "beta1_power": np.float32(0.9).reshape(()), **slots}
    found = accounting_of({**RAW, **averages(RAW), **extra})
    assert set(found.consumed) == set(RAW)
    assert set(found.other_view) == {f"{name}/{EMA}" for name in RAW}
    assert found.ignored.keys() == extra.keys()
    assert found.ignored["global_step"] == "training step counter"
    assert found.ignored[f"{BIAS}/Adam"] == "optimizer slot: Adam's first moment"
    assert found.problems == []
    found.require_complete("anything")


@pytest.mark.parametrize("name", ["box_net/box-7/bias/Momentum", "Momentum", "{variable}/Momentum", "beta1_power/x"])
def test_a_slot_of_an_unknown_variable_is_unexpected(name: str) -> None:
    assert accounting_of({**RAW, name: STRANGER}).unexpected == (name,)


@pytest.mark.parametrize(
    ("name", "value", "is_ignored"),
    [
        ("moving_normalizer", np.float32(1).reshape(()), True),
        ("loss_scale/current_loss_scale", np.float32(1).reshape(()), True),
        ("epoch", STEP, True),
        ("class_net/calls", STEP, True),
        ("generator/state", np.zeros(3, np.int64), True),
        ("fpn_cells/cell_9/fnode0/WSM", np.float32(1).reshape(()), False),
        ("class_net/class-9/quantized", np.zeros(3, np.int8), False),
        ("other/kernel", np.zeros(3, np.float32), False),
    ],
)
def test_state_of_training_is_ignored_by_rule(name: str, value: Array, is_ignored: bool) -> None:
    found = accounting_of({**RAW, name: value})
    assert (found.ignored, found.unexpected) == (({name: STATE}, ()) if is_ignored else ({}, (name,)))


def test_an_unknown_copy_is_ignored_if_raw_values_were_asked_for() -> None:
    found = accounting_of({**RAW, **{f"{name}/ema": array for name, array in RAW.items()}})
    assert found.problems == []
    assert set(found.ignored.values()) == {"another copy of the variables, under the unknown name X/ema"}


def test_a_scope_is_ignored_with_everything_in_it_and_nothing_else() -> None:
    known = (
        "head/dense_4/bias",
        "efficientnet-b0/head/x",
        "optimizer/learning_rate",
        "object_graph",
        "object_graph/x/y",
    )
    other = ("header/kernel", "class_net/head/kernel", "optimizers", "object_graphs/x", "efficientnet-b1/head/x")
    found = accounting_of({**RAW, **dict.fromkeys((*known, *other), STRANGER)})
    assert (set(found.ignored), set(found.unexpected)) == (set(known), set(other))


@pytest.mark.parametrize(
    ("stored", "words"),
    [
        (np.zeros((8, 1), np.float32), "has shape (8, 1); expected (8,)"),
        (np.zeros(8, np.int64), "has shape (8,) of dtype int64; expected (8,)"),
        (np.full(8, b"text", object), "has shape (8,) of dtype string; expected (8,)"),
    ],
)
def test_a_wrong_shape_or_dtype_is_mismatched(stored: Array, words: str) -> None:
    assert accounting_of({**RAW, BIAS: stored}).problems == [f"mismatched: {BIAS} {words}"]


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_any_floating_point_variable_is_converted(dtype: str) -> None:
    arrays = {name: array.astype(dtype) for name, array in seeded(PLAN).items()}
    assert accounting_of(arrays).problems == []
    result = converted(PLAN, arrays)
    assert {str(array.dtype) for key, array in result.items() if not key.endswith("tracked")} == {"float32"}


def test_all_problems_are_reported_at_once() -> None:
    first, second, *_ = RAW
    rest = {name: array for name, array in RAW.items() if name != first}
    found = accounting_of({**rest, **averages(RAW), second: np.zeros((1, 2), np.float32), "stranger": STRANGER})
    with pytest.raises(AccountingError) as caught:
        found.require_complete("this checkpoint")
    assert caught.value.problems == found.problems
    assert set(found.consumed) == set(rest)
    assert str(caught.value).splitlines() == [
        "this checkpoint: 1 missing, 1 unexpected, 1 mismatched",
        f"  missing: {first}",
        "  unexpected: stranger",
        f"  mismatched: {second} has shape (1, 2); expected {RAW[second].shape}",
    ]


def test_a_long_list_is_cut_in_the_text_and_whole_in_the_error() -> None:
    with pytest.raises(AccountingError) as caught:
        accounting_of({"stranger": STRANGER}).require_complete("this")
    lines = str(caught.value).splitlines()
    assert len(lines) == 1 + SHOWN + 1
    assert len(caught.value.problems) == len(RAW) + 1
    assert lines[-1] == f"  and {len(RAW) + 1 - SHOWN} more; --report lists them all"


def test_conversion_computes_every_tensor_in_a_dtype() -> None:
    arrays = seeded(PLAN)
    result = converted(PLAN, arrays)
    assert list(result) == list(PLAN.targets)
    assert all(result[key].shape == entry.target_shape for key, entry in PLAN.targets.items())
    kernel = arrays["efficientnet-b0/blocks_1/conv2d/kernel"]
    assert np.array_equal(result["backbone.blocks.1.0.conv_pw.weight"][:, :, 0, 0], kernel[0, 0].T)
    key, count = "class_net.bn_rep.0.1.bn.running_mean", "backbone.bn1.num_batches_tracked"
    mean, bias = arrays["class_net/class-0-bn-4/moving_mean"], arrays["class_net/class-0/bias"]
    assert np.array_equal(result[key], mean - bias)
    source = MemorySource(arrays)
    exact = dict(convert(source, PLAN, select_view(source, PLAN), np.float64))
    assert np.array_equal(exact[key], mean.astype(np.float64) - bias.astype(np.float64))
    assert not np.array_equal(exact[key], result[key])
    assert exact[count].dtype == result[count].dtype == np.int64


def test_values_are_read_on_demand() -> None:
    source = MemorySource(seeded(PLAN))
    tensors = convert(source, PLAN, select_view(source, PLAN, "raw"))
    assert source.reads == []
    next(tensors)
    assert source.reads == ["efficientnet-b0/stem/conv2d/kernel"]


def test_the_view_decides_which_copy_is_read() -> None:
    raw, ema = seeded(PLAN, 0), seeded(PLAN, 1)
    alone = {"raw": converted(PLAN, raw), "ema": converted(PLAN, ema)}
    for view in ("raw", "ema"):
        result = converted(PLAN, {**raw, **averages(ema)}, view)
        assert all(np.array_equal(result[key], alone[view][key]) for key in result)
    assert not np.array_equal(alone["raw"]["backbone.bn1.weight"], alone["ema"]["backbone.bn1.weight"])


def test_one_swap_shows_in_the_reverted_variables() -> None:
    """Negative control: two tensors of equal shape, exchanged, come back as other variables."""
    arrays = seeded(KEPT)
    state = converted(KEPT, arrays)
    state["backbone.bn1.weight"], state["backbone.bn1.bias"] = state["backbone.bn1.bias"], state["backbone.bn1.weight"]
    back = reverted(state, KEPT)
    wrong = [name for name in arrays if not np.array_equal(back[name], arrays[name])]
    assert wrong == [f"efficientnet-b0/stem/tpu_batch_normalization/{leaf}" for leaf in ("gamma", "beta")]


def shapes(state: dict[str, Array]) -> dict[str, tuple[int, ...]]:
    return {key: array.shape for key, array in state.items()}


def test_a_state_dict_may_lack_what_tensorflow_does_not_have() -> None:
    state = converted(PLAN, seeded(PLAN))
    without = {key: array for key, array in state.items() if not key.endswith("num_batches_tracked")}
    assert len(without) < len(state)
    assert account_state_dict(shapes(without), PLAN).problems == []


def test_the_state_dict_of_another_model_is_incomplete() -> None:
    state = converted(PLAN, seeded(PLAN))
    with pytest.raises(AccountingError, match=r"this state_dict is not the model's: \d+ missing, 0 unexpected"):
        account_state_dict(shapes(state), KEPT).require_complete("this state_dict is not the model's")
    state["backbone.bn1.weight"] = np.zeros(3, np.float32)
    state["head.weight"] = state.pop("backbone.bn1.bias")
    assert account_state_dict(shapes(state), PLAN).problems == [
        "missing: backbone.bn1.bias",
        "unexpected: head.weight",
        "mismatched: backbone.bn1.weight has shape (3,); expected (32,)",
    ]
