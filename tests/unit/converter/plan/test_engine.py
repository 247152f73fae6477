"""Accounting for every variable, and the two directions of the conversion."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from converter.errors import AccountingError
from converter.plan.copies import select_view
from converter.plan.engine import SHOWN, Accounting, account, account_state_dict, convert
from converter.plan.expand import Plan
from support.sources import (
    EMA,
    Array,
    MemorySource,
    averages,
    placeholders,
    plan_of,
    reverted,
    seeded,
    shapes_of,
    small_config,
)

STEP = np.array(1, np.int64)


@pytest.fixture(scope="module")
def plan() -> Plan:
    return plan_of(small_config())


@pytest.fixture(scope="module")
def kept() -> Plan:
    return plan_of(small_config(redundant_bias=True))


def accounting_of(plan: Plan, arrays: dict[str, Array]) -> Accounting:
    source = MemorySource(arrays, data=False)
    return account(source.variables, plan, select_view(source, plan, "raw"))


def converted(plan: Plan, arrays: dict[str, Array]) -> dict[str, Array]:
    source = MemorySource(arrays)
    return dict(convert(source, plan, select_view(source, plan, "raw")))


def test_every_stored_variable_goes_somewhere(plan: Plan) -> None:
    raw = placeholders(plan)
    slots = {f"{name}/{slot}": array for name, array in raw.items() for slot in ("Momentum", "Adam", "Adam_1")}
    extra = {"global_step": STEP, "beta1_power": np.float32(0.9).reshape(()), **slots}
    found = accounting_of(plan, {**raw, **averages(raw), **extra})
    assert set(found.consumed) == set(raw)
    assert set(found.other_view) == {f"{name}/{EMA}" for name in raw}
    assert found.ignored.keys() == extra.keys()
    assert found.ignored["global_step"] == "training step counter"
    assert found.ignored["box_net/box-0/bias/Adam"] == "optimizer slot: Adam's first moment"
    assert found.problems == []
    found.require_complete("anything")


@pytest.mark.parametrize("name", ["box_net/box-7/bias/Momentum", "Momentum", "{variable}/Momentum", "beta1_power/x"])
def test_a_slot_of_nothing_is_unexpected(plan: Plan, name: str) -> None:
    assert accounting_of(plan, {**placeholders(plan), name: STEP}).unexpected == (name,)


def test_the_other_view_does_not_fill_a_gap(plan: Plan) -> None:
    raw = placeholders(plan)
    gone = "box_net/box-0/bias"
    found = accounting_of(plan, {**{name: raw[name] for name in raw if name != gone}, **averages(raw)})
    assert found.missing == (gone,)
    assert f"{gone}/{EMA}" in found.other_view


@pytest.mark.parametrize(
    ("stored", "words"),
    [
        (np.zeros((8, 1), np.float32), "has shape (8, 1); expected (8,)"),
        (np.zeros(7, np.float32), "has shape (7,); expected (8,)"),
        (np.zeros(8, np.int64), "has shape (8,) of dtype int64; expected (8,)"),
        (np.full(8, b"text", object), "has shape (8,) of dtype string; expected (8,)"),
    ],
)
def test_a_wrong_shape_or_dtype_is_mismatched(plan: Plan, stored: Array, words: str) -> None:
    found = accounting_of(plan, {**placeholders(plan), "box_net/box-0/bias": stored})
    assert found.problems == [f"mismatched: box_net/box-0/bias {words}"]


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_any_floating_point_variable_is_converted(plan: Plan, dtype: str) -> None:
    arrays = {name: array.astype(dtype) for name, array in seeded(plan).items()}
    assert accounting_of(plan, arrays).problems == []
    result = converted(plan, arrays)
    assert {str(array.dtype) for key, array in result.items() if not key.endswith("tracked")} == {"float32"}


def test_all_problems_are_told_at_once(plan: Plan) -> None:
    arrays = placeholders(plan)
    first, second, *_ = arrays
    del arrays[first]
    found = accounting_of(plan, {**arrays, second: np.zeros((1, 2), np.float32), "stranger": STEP})
    with pytest.raises(AccountingError) as caught:
        found.require_complete("this checkpoint")
    assert str(caught.value).splitlines()[0] == "this checkpoint: 1 missing, 1 unexpected, 1 mismatched"
    assert f"missing: {first}" in str(caught.value)
    assert "unexpected: stranger" in str(caught.value)
    assert caught.value.problems == found.problems
    assert len(found.problems) == 3


def test_a_long_list_is_cut_in_the_text_and_whole_in_the_error(plan: Plan) -> None:
    with pytest.raises(AccountingError) as caught:
        accounting_of(plan, {"stranger": STEP}).require_complete("this")
    lines = str(caught.value).splitlines()
    assert len(lines) == 1 + SHOWN + 1
    assert "--report lists them all" in lines[-1]
    assert len(caught.value.problems) == len(plan.variables) + 1


def test_conversion_gives_every_tensor_its_values(plan: Plan) -> None:
    arrays = seeded(plan)
    result = converted(plan, arrays)
    assert list(result) == list(plan.targets)
    assert all(result[key].shape == entry.target_shape for key, entry in plan.targets.items())
    # One of each kind, spelled out.
    scope = "efficientnet-b0/blocks_1"
    kernel = arrays[f"{scope}/conv2d/kernel"]
    assert np.array_equal(result["backbone.blocks.1.0.conv_pw.weight"][:, :, 0, 0], kernel[0, 0].T)
    depthwise = arrays[f"{scope}/depthwise_conv2d/depthwise_kernel"]
    assert np.array_equal(result["backbone.blocks.1.0.conv_dw.weight"][:, 0], depthwise[..., 0].transpose(2, 0, 1))
    assert np.array_equal(result["backbone.bn1.weight"], arrays["efficientnet-b0/stem/tpu_batch_normalization/gamma"])
    weights = [arrays[f"fpn_cells/cell_0/fnode2/{name}"] for name in ("WSM", "WSM_1", "WSM_2")]
    assert result["fpn.cell.0.fnode.2.combine.edge_weights"].tolist() == [float(value) for value in weights]
    mean, bias = arrays["class_net/class-0-bn-4/moving_mean"], arrays["class_net/class-0/bias"]
    assert np.array_equal(result["class_net.bn_rep.0.1.bn.running_mean"], mean - bias)
    assert result["backbone.bn1.num_batches_tracked"].dtype == np.int64


def test_conversion_in_float64_folds_in_float64(plan: Plan) -> None:
    arrays = seeded(plan)
    source = MemorySource(arrays)
    exact = dict(convert(source, plan, select_view(source, plan, "raw"), np.float64))
    key, mean, bias = (
        "class_net.bn_rep.0.1.bn.running_mean",
        "class_net/class-0-bn-4/moving_mean",
        "class_net/class-0/bias",
    )
    assert np.array_equal(exact[key], arrays[mean].astype(np.float64) - arrays[bias].astype(np.float64))
    assert not np.array_equal(exact[key], converted(plan, arrays)[key])
    assert exact["backbone.bn1.num_batches_tracked"].dtype == np.int64


def test_values_are_read_when_their_tensor_is_asked_for(plan: Plan) -> None:
    source = MemorySource(seeded(plan))
    tensors: Iterator[tuple[str, Array]] = convert(source, plan, select_view(source, plan, "raw"))
    assert source.reads == []
    next(tensors)
    assert source.reads == ["efficientnet-b0/stem/conv2d/kernel"]


def test_the_view_decides_which_copy_is_read(plan: Plan) -> None:
    raw, ema = seeded(plan, 0), seeded(plan, 1)
    source = MemorySource({**raw, **averages(ema)})
    by_view = {name: dict(convert(source, plan, select_view(source, plan, name))) for name in ("raw", "ema")}
    alone = {"raw": converted(plan, raw), "ema": converted(plan, ema)}
    for view, result in by_view.items():
        assert all(np.array_equal(result[key], alone[view][key]) for key in result)
    assert not np.array_equal(by_view["raw"]["backbone.bn1.weight"], by_view["ema"]["backbone.bn1.weight"])


def test_revert_undoes_convert_bit_for_bit_when_biases_are_kept(kept: Plan) -> None:
    arrays = seeded(kept)
    back = reverted(converted(kept, arrays), kept)
    assert back.keys() == arrays.keys()
    assert all(np.array_equal(back[name], arrays[name]) for name in arrays)


def test_one_swap_would_be_noticed(kept: Plan) -> None:
    """Negative control: two tensors of equal shape, exchanged, come back as something else."""
    arrays = seeded(kept)
    state = converted(kept, arrays)
    state["backbone.bn1.weight"], state["backbone.bn1.bias"] = state["backbone.bn1.bias"], state["backbone.bn1.weight"]
    back = reverted(state, kept)
    scope = "efficientnet-b0/stem/tpu_batch_normalization"
    assert [name for name in arrays if not np.array_equal(back[name], arrays[name])] == [
        f"{scope}/gamma",
        f"{scope}/beta",
    ]


def test_folded_biases_come_back_as_zeros_and_convert_to_the_same(plan: Plan) -> None:
    state = converted(plan, seeded(plan))
    back = reverted(state, plan)
    folded = {name for entry in plan.entries if entry.target is None for name in entry.sources}
    assert folded
    assert all(not back[name].any() and back[name].shape == plan.variables[name] for name in folded)
    again = converted(plan, back)
    assert all(np.array_equal(again[key], state[key]) for key in state)


def shapes(state: dict[str, Array]) -> dict[str, tuple[int, ...]]:
    return {key: array.shape for key, array in state.items()}


def test_a_state_dict_may_lack_what_tensorflow_does_not_have(plan: Plan) -> None:
    state = converted(plan, seeded(plan))
    without = {key: array for key, array in state.items() if not key.endswith("num_batches_tracked")}
    assert len(without) < len(state)
    assert account_state_dict(shapes(without), plan).problems == []


def test_the_state_dict_of_another_model_is_not_complete(plan: Plan, kept: Plan) -> None:
    state = converted(plan, seeded(plan))
    with pytest.raises(AccountingError, match=r"this state_dict is not the model's: \d+ missing, 0 unexpected"):
        account_state_dict(shapes(state), kept).require_complete("this state_dict is not the model's")
    state["backbone.bn1.weight"] = np.zeros(3, np.float32)
    state["head.weight"] = state.pop("backbone.bn1.bias")
    with pytest.raises(AccountingError) as caught:
        account_state_dict(shapes(state), plan).require_complete("this state_dict is not the model's")
    assert caught.value.problems == [
        "missing: backbone.bn1.bias",
        "unexpected: head.weight",
        "mismatched: backbone.bn1.weight has shape (3,); expected (32,)",
    ]


def test_accounting_reads_nothing(plan: Plan) -> None:
    source = MemorySource(placeholders(plan))
    account(shapes_of(source.arrays), plan, select_view(source, plan, "raw"))
    assert source.reads == []
