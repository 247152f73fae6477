"""Which copy is converted: never a mixture, never an untrained one, never a silent choice."""

from __future__ import annotations

import numpy as np
import pytest

from converter.errors import ViewError
from converter.plan.copies import UNTRAINED, ViewName, differing, is_untrained, select_view, stored_names
from converter.plan.expand import Plan
from support.sources import EMA, Array, MemorySource, averages, initial, placeholders, plan_of, seeded, small_config

NORM = "backbone.bn1"


@pytest.fixture(scope="module")
def plan() -> Plan:
    return plan_of(small_config())


@pytest.fixture(scope="module")
def raw(plan: Plan) -> dict[str, Array]:
    return seeded(plan, 0)


@pytest.fixture(scope="module")
def ema(plan: Plan) -> dict[str, Array]:
    return averages(seeded(plan, 1))


def test_names_of_a_view(plan: Plan) -> None:
    assert stored_names(plan, "raw") == {name: name for name in plan.variables}
    assert stored_names(plan, "ema") == {name: f"{name}/{EMA}" for name in plan.variables}


def test_takes_the_averages_where_there_are_any(plan: Plan, raw: dict[str, Array], ema: dict[str, Array]) -> None:
    view = select_view(MemorySource(raw | ema), plan)
    assert view.name == "ema"
    assert "which the official results use" in view.reason
    assert view.stored == stored_names(plan, "ema")
    assert view.others == dict.fromkeys(raw, "raw")


def test_takes_raw_values_where_there_are_no_averages(plan: Plan, raw: dict[str, Array]) -> None:
    view = select_view(MemorySource(raw), plan)
    assert (view.name, view.reason) == ("raw", "the checkpoint has no averages (EMA)")
    assert view.stored == stored_names(plan, "raw")
    assert view.others == dict.fromkeys(averages(raw), "ema")


@pytest.mark.parametrize("wanted", ["raw", "ema"])
def test_takes_what_was_asked_for(plan: Plan, raw: dict[str, Array], ema: dict[str, Array], wanted: ViewName) -> None:
    view = select_view(MemorySource(raw | ema), plan, wanted)
    assert (view.name, view.reason) == (wanted, "asked for")


def test_averages_alone_are_enough(plan: Plan, ema: dict[str, Array]) -> None:
    assert select_view(MemorySource(ema), plan).name == "ema"


def test_averages_that_are_not_there_are_refused(plan: Plan, raw: dict[str, Array]) -> None:
    with pytest.raises(ViewError, match=r"^folder/model: no averages \(EMA\) in this checkpoint; use --weights raw$"):
        select_view(MemorySource(raw), plan, "ema")


@pytest.mark.parametrize("wanted", [None, "ema"])
def test_half_of_the_averages_is_refused_with_names(
    plan: Plan, raw: dict[str, Array], ema: dict[str, Array], wanted: ViewName | None
) -> None:
    gone = [name for name in raw if name.startswith("box_net/box-predict")]
    source = MemorySource({**raw, **{name: ema[name] for name in ema if name.removesuffix(f"/{EMA}") not in gone}})
    with pytest.raises(ViewError) as caught:
        select_view(source, plan, wanted)
    lines = str(caught.value).splitlines()
    count = len(raw)
    assert f"{count - 3} of {count} variables have averages (EMA), 3 have none" in lines[0]
    assert "--weights raw" in lines[0]
    assert [line.strip() for line in lines[1:]] == [f"{name}/{EMA}" for name in gone]
    assert select_view(source, plan, "raw").name == "raw"


def test_a_long_list_of_names_is_cut(plan: Plan, raw: dict[str, Array], ema: dict[str, Array]) -> None:
    one = next(iter(ema))
    with pytest.raises(ViewError) as caught:
        select_view(MemorySource({**raw, one: ema[one]}), plan)
    lines = str(caught.value).splitlines()
    assert len(lines) == 22
    assert lines[-1].strip() == f"and {len(raw) - 1 - 20} more"


def test_a_variable_without_any_copy_is_left_to_the_accounting(
    plan: Plan, raw: dict[str, Array], ema: dict[str, Array]
) -> None:
    both = raw | ema
    gone = "box_net/box-0/bias"
    del both[gone], both[f"{gone}/{EMA}"]
    assert select_view(MemorySource(both), plan).name == "ema"


@pytest.mark.parametrize("wanted", [None, "ema"])
def test_untrained_averages_are_refused_with_advice(plan: Plan, raw: dict[str, Array], wanted: ViewName | None) -> None:
    source = MemorySource({**raw, **averages(initial(plan))})
    with pytest.raises(ViewError, match=r"hold initial values .* SavedModel .*: use --weights raw$"):
        select_view(source, plan, wanted)
    assert select_view(source, plan, "raw").name == "raw"


def test_a_network_that_was_never_trained_is_called_so(plan: Plan) -> None:
    values = initial(plan)
    with pytest.raises(ViewError, match="this network was never trained"):
        select_view(MemorySource({**values, **averages(values)}), plan)


def test_without_the_data_nobody_knows_whether_it_was_trained(plan: Plan) -> None:
    values = placeholders(plan)
    source = MemorySource({**values, **averages(values)}, data=False)
    assert is_untrained(source, plan, "ema") is None
    assert differing(source, plan) is None
    assert select_view(source, plan).name == "ema"


@pytest.mark.parametrize("suffix", UNTRAINED)
def test_one_trained_value_in_one_batch_norm_is_enough(plan: Plan, suffix: str) -> None:
    values = initial(plan)
    assert is_untrained(MemorySource(values), plan, "raw") is True
    (name,) = plan.targets[f"{NORM}.{suffix}"].sources
    values[name] = values[name].copy()
    values[name][3] += np.float32(1e-6)
    assert is_untrained(MemorySource(values), plan, "raw") is False


def test_a_trained_network_is_known_by_one_read(plan: Plan, raw: dict[str, Array]) -> None:
    source = MemorySource(raw)
    assert is_untrained(source, plan, "raw") is False
    assert len(source.reads) == 1


def test_a_view_that_is_not_there_is_neither(plan: Plan, raw: dict[str, Array]) -> None:
    source = MemorySource(raw)
    assert is_untrained(source, plan, "ema") is None
    assert differing(source, plan) is None


def test_counts_the_variables_that_differ(plan: Plan, raw: dict[str, Array]) -> None:
    same = averages(raw)
    assert differing(MemorySource(raw | same), plan) == 0
    for name in list(same)[:5]:
        same[name] = same[name] + np.float32(1)
    assert differing(MemorySource(raw | same), plan) == 5
