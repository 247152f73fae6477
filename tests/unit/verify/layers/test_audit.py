"""The weights audit: silent on a right file, exact on a wrong one."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from converter.plan.copies import select_view
from converter.plan.engine import convert
from support.sources import Array, MemorySource, plan_of, seeded, small_config
from verify.layers.audit import audit_weights
from verify.results import AuditResult

State = dict[str, Array]
MEAN = "fpn.cell.0.fnode.0.after_combine.conv.bn.running_mean"
KERNEL = "class_net.predict.conv_pw.weight"
VARIANCE = "backbone.bn1.running_var"


def audit(change: Callable[[State], None], redundant_bias: bool = False) -> AuditResult:
    plan = plan_of(small_config(redundant_bias=redundant_bias))
    source = MemorySource(seeded(plan))
    view = select_view(source, plan)
    state = {key: np.array(array, order="C") for key, array in convert(source, plan, view)}
    change(state)
    return audit_weights(state, plan, source, view, {})


@pytest.mark.parametrize("redundant_bias", [False, True])
def test_a_converted_file_is_right(redundant_bias: bool) -> None:
    result = audit(lambda state: None, redundant_bias)
    variances = [finding for finding in result.findings if "variance" not in finding.finding]
    assert not variances
    assert result.tensors > 300


def one_bit(key: str) -> Callable[[State], None]:
    def change(state: State) -> None:
        state[key].reshape(-1).view(np.uint32)[0] ^= 1

    return change


@pytest.mark.parametrize("key", [MEAN, KERNEL])
def test_one_bit_is_found(key: str) -> None:
    findings = [f for f in audit(one_bit(key)).findings if f.tensor == key]
    assert len(findings) == 1
    assert findings[0].finding.startswith("1 of ")


def test_values_that_are_not_finite_and_variances_that_are_not_positive() -> None:
    def change(state: State) -> None:
        state[KERNEL].reshape(-1)[5] = np.nan
        state[VARIANCE][:] = 1
        state[VARIANCE][3] = -1

    texts = {f"{f.tensor}: {f.finding}" for f in audit(change).findings}
    assert f"{KERNEL}: 1 of {audit_size(KERNEL)} values are not finite" in texts
    assert any(text.startswith(f"{VARIANCE}: variance is not positive: -1.0 at channel 3") for text in texts)


def audit_size(key: str) -> int:
    return int(np.prod(plan_of(small_config()).targets[key].target_shape))


def test_missing_unexpected_and_mismatched_tensors() -> None:
    def change(state: State) -> None:
        del state[KERNEL]
        state["surplus"] = np.zeros(1, np.float32)
        state[MEAN] = state[MEAN][:-1]

    found = {f.tensor: f.finding for f in audit(change).findings}
    assert found[KERNEL] == "missing in the file"
    assert found["surplus"] == "not a tensor of this model"
    assert found[MEAN].startswith("shape (7,); expected (8,)")
