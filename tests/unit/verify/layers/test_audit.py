"""The weights audit: silent on a right file, exact on a wrong one."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from converter.conversion import prepare
from converter.plan.engine import convert
from support.sources import Array, MemorySource, plan_of, seeded, small_config
from verify.layers.audit import audit_weights
from verify.subjects.weights import Weights

State = dict[str, Array]
MEAN = "fpn.cell.0.fnode.0.after_combine.conv.bn.running_mean"
KERNEL = "class_net.predict.conv_pw.weight"
COUNTER = "backbone.bn1.num_batches_tracked"
VARIANCE = "backbone.bn1.running_var"


def audit(
    change: Callable[[State], object] = lambda state: None, redundant_bias: bool = False, was_saved: bool = False
) -> list[str]:
    """Change a converted file, and return what the audit finds in it."""
    variables = seeded(plan_of(small_config()))
    preparation = prepare(MemorySource(variables), keep_redundant_bias=redundant_bias)
    tensors = convert(preparation.source, preparation.plan, preparation.view)
    state = {key: np.array(array, order="C") for key, array in tensors}
    change(state)
    result = audit_weights(Weights(state, preparation, was_saved), {})
    assert result.tensors > 300
    assert result.tensors + result.counters == len(preparation.plan.targets)
    assert bool(result.counters) == was_saved
    assert result.passed == (not result.findings)
    return [f"{found.tensor}: {found.finding}" for found in result.findings]


@pytest.mark.parametrize("redundant_bias", [False, True])
def test_a_converted_file_is_right(redundant_bias: bool) -> None:
    assert audit(redundant_bias=redundant_bias) == []


@pytest.mark.parametrize("key", [MEAN, KERNEL])
def test_one_bit_is_found(key: str) -> None:
    def change(state: State) -> None:
        state[key].reshape(-1).view(np.uint32)[0] ^= 1

    (found,) = audit(change)
    assert found.startswith(f"{key}: 1 of ")


def test_values_that_no_model_may_have() -> None:
    def change(state: State) -> None:
        state[KERNEL].reshape(-1)[5] = np.nan
        state[VARIANCE][3] = -1
        state[COUNTER] += 5

    found = audit(change)
    count = math.prod(plan_of(small_config()).targets[KERNEL].target_shape)
    assert f"{KERNEL}: 1 of {count} values are not finite" in found
    assert f"{VARIANCE}: 1 of 32 variances are negative" in found
    assert all("not finite" in text or "negative" in text for text in found[:2])  # these go first
    assert f"{COUNTER}: 1 of 1 values differ from the constant of the table" in found


def test_a_saved_model_may_have_counted_updates() -> None:
    def count(state: State) -> None:
        state[COUNTER] += 5

    def count_and_differ(state: State) -> None:
        count(state)
        state[MEAN].reshape(-1).view(np.uint32)[0] ^= 1

    assert audit(count, was_saved=True) == []
    (found,) = audit(count_and_differ, was_saved=True)
    assert found.startswith(f"{MEAN}: 1 of ")
    (found,) = audit(count)  # nothing counts while a checkpoint is converted
    assert found.startswith(f"{COUNTER}: 1 of ")


def test_missing_unexpected_and_mismatched_tensors() -> None:
    def change(state: State) -> None:
        del state[KERNEL]
        state["surplus"] = np.zeros(1, np.float32)
        state[MEAN] = state[MEAN][:-1]

    assert audit(change) == [
        f"{KERNEL}: missing in the file",
        "surplus: not a tensor of this model",
        f"{MEAN}: shape (7,); expected (8,)",
    ]
