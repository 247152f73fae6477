"""Which copy is converted: never a mixture, never an untrained one, never a silent choice."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from converter.errors import ViewError
from converter.plan.copies import (
    UNTRAINED,
    ViewName,
    differing,
    is_untrained,
    select_view,
    stored_names,
    unknown_copies,
)
from support.sources import EMA, MemorySource, averages, initial, placeholders, plan_of, seeded, small_config

PLAN = plan_of(small_config())
RAW, AVERAGES = seeded(PLAN, 0), averages(seeded(PLAN, 1))


def test_names_of_a_view() -> None:
    assert stored_names(PLAN, "raw") == {name: name for name in PLAN.variables}
    assert stored_names(PLAN, "ema") == {name: f"{name}/{EMA}" for name in PLAN.variables}


@pytest.mark.parametrize(
    ("arrays", "wanted", "name", "reason"),
    [
        (RAW | AVERAGES, None, "ema", "the checkpoint has averages (EMA), which the official results use"),
        (AVERAGES, None, "ema", "the checkpoint has averages (EMA), which the official results use"),
        (RAW, None, "raw", "the checkpoint has no averages (EMA)"),
        (RAW | AVERAGES, "raw", "raw", "asked for"),
        (RAW | AVERAGES, "ema", "ema", "asked for"),
    ],
)
def test_the_choice(arrays: dict[str, Any], wanted: ViewName | None, name: str, reason: str) -> None:
    view = select_view(MemorySource(arrays), PLAN, wanted)
    other = "raw" if name == "ema" else "ema"
    assert (view.name, view.reason) == (name, reason)
    assert view.stored == stored_names(PLAN, name)
    assert view.others == dict.fromkeys(stored_names(PLAN, other).values(), other)


def test_absent_averages_are_refused() -> None:
    with pytest.raises(ViewError, match=r"^folder/model: no averages \(EMA\) in this checkpoint; use --weights raw$"):
        select_view(MemorySource(RAW), PLAN, "ema")


@pytest.mark.parametrize("wanted", [None, "ema"])
@pytest.mark.parametrize("absent", [3, 20, 21])
def test_some_of_the_averages_are_refused_with_the_names_of_the_others(wanted: ViewName | None, absent: int) -> None:
    gone = list(AVERAGES)[-absent:]
    source = MemorySource({**RAW, **{name: AVERAGES[name] for name in AVERAGES if name not in gone}})
    with pytest.raises(ViewError) as caught:
        select_view(source, PLAN, wanted)
    first, *names = (line.strip() for line in str(caught.value).splitlines())
    assert f"{len(RAW) - absent} of {len(RAW)} variables have averages (EMA), {absent} have none" in first
    assert "--weights raw" in first
    assert names == gone[:20] + ["and 1 more"] * (absent > 20)
    assert select_view(source, PLAN, "raw").name == "raw"


def test_a_variable_without_any_copy_is_left_to_the_accounting() -> None:
    gone = "box_net/box-0/bias"
    rest = {name: array for name, array in (RAW | AVERAGES).items() if name not in (gone, f"{gone}/{EMA}")}
    assert select_view(MemorySource(rest), PLAN).name == "ema"


@pytest.mark.parametrize("wanted", [None, "ema"])
def test_untrained_averages_are_refused_with_a_next_step(wanted: ViewName | None) -> None:
    initial_averages = averages(initial(PLAN))
    source = MemorySource({**RAW, **initial_averages})
    with pytest.raises(ViewError, match=r"hold initial values .* SavedModel .*: use --weights raw$"):
        select_view(source, PLAN, wanted)
    assert select_view(source, PLAN, "raw").name == "raw"
    with pytest.raises(ViewError, match="and so do the raw names: this network was never trained"):
        select_view(MemorySource({**initial(PLAN), **initial_averages}), PLAN, wanted)


def test_without_data_training_and_differences_are_unknown() -> None:
    values = placeholders(PLAN)
    source = MemorySource({**values, **averages(values)}, data=False)
    assert is_untrained(source, PLAN, "ema") is None
    assert differing(source, PLAN) is None
    assert select_view(source, PLAN).name == "ema"


@pytest.mark.parametrize("suffix", UNTRAINED)
def test_one_trained_value_in_one_batch_norm_is_enough(suffix: str) -> None:
    values = initial(PLAN)
    assert is_untrained(MemorySource(values), PLAN, "raw") is True
    (name,) = PLAN.targets[f"backbone.bn1.{suffix}"].sources
    values[name] = values[name].copy()
    values[name][3] += np.float32(1e-6)
    assert is_untrained(MemorySource(values), PLAN, "raw") is False


def test_a_trained_network_is_recognised_by_one_read_and_an_absent_one_is_unknown() -> None:
    source = MemorySource(RAW)
    assert is_untrained(source, PLAN, "raw") is False
    assert len(source.reads) == 1
    assert is_untrained(source, PLAN, "ema") is None
    assert differing(source, PLAN) is None


def test_a_batch_norm_of_an_absurd_size_is_not_computed() -> None:
    """An index without data can claim any shape."""

    class Claims(MemorySource):
        def checksum(self, name: str) -> int:
            return 0

    values = dict.fromkeys(PLAN.variables, np.broadcast_to(np.float32(1), 1 << 45))
    assert is_untrained(Claims(values), PLAN, "raw") is False


@pytest.mark.parametrize("changed", [0, 5])
def test_counts_the_variables_that_differ(changed: int) -> None:
    same = averages(RAW)
    for name in list(same)[:changed]:
        same[name] = same[name] + np.float32(1)
    assert differing(MemorySource(RAW | same), PLAN) == changed


def copies(template: str, share: float = 1.0, **changes: Any) -> dict[str, Any]:
    """Another variable for a share of the trainable ones."""
    chosen = sorted(PLAN.trainable)[: int(len(PLAN.trainable) * share)]
    return {template.format(name): changes.get("value", RAW[name]) for name in chosen}


@pytest.mark.parametrize(("template", "shown"), [("{}/ema", "X/ema"), ("shadow/{}", "shadow/X"), ("a/b/{}", "a/b/X")])
def test_an_unknown_copy_is_never_overlooked(template: str, shown: str) -> None:
    source = MemorySource({**RAW, **copies(template)})
    words = rf"{len(PLAN.trainable)} variables X have another one of the same shape, {shown}, .*may be the averages"
    with pytest.raises(ViewError, match=rf"{words}.*use --weights raw$"):
        select_view(source, PLAN)
    assert select_view(source, PLAN, "raw").name == "raw"
    with pytest.raises(ViewError, match="no averages"):
        select_view(source, PLAN, "ema")


@pytest.mark.parametrize("place", ["shadow", "optimizer/_shadow", "a/b"])
def test_a_list_without_names_is_never_overlooked(place: str) -> None:
    """An optimizer of one's own, or a dictionary of variables."""
    shadow = {f"{place}/{number}": RAW[name] for number, name in enumerate(sorted(PLAN.trainable))}
    source = MemorySource({**RAW, **shadow})
    with pytest.raises(ViewError, match=rf"{len(shadow)} variables X have another one .*{place}/NUMBER.*--weights raw"):
        select_view(source, PLAN)
    few = dict(list(shadow.items())[: len(shadow) // 3])
    assert select_view(MemorySource({**RAW, **few}), PLAN).name == "raw"


def test_beside_known_averages_an_unknown_copy_needs_a_choice() -> None:
    source = MemorySource({**RAW, **AVERAGES, **copies("{}/slow_weights")})
    with pytest.raises(ViewError, match="use --weights ema for the known averages, or --weights raw"):
        select_view(source, PLAN)
    assert select_view(source, PLAN, "ema").name == "ema"


@pytest.mark.parametrize(
    "others",
    [
        copies("{}/velocity"),
        copies("{}/Adam_1"),
        copies("{}/ema", 0.4),
        copies("{}/ema", value=np.zeros(7, np.float32)),
        copies("{}"),
        {f"{name}/{EMA}/ema": array for name, array in RAW.items() if name not in PLAN.trainable},
    ],
    ids=["a slot", "a slot of TF1", "less than half", "other shapes", "the variables", "statistics"],
)
def test_what_is_no_unknown_copy(others: dict[str, Any]) -> None:
    assert unknown_copies(MemorySource({**RAW, **others}).variables, PLAN) == {}


def test_trainable_variables() -> None:
    assert {name.rsplit("/", 1)[1] for name in PLAN.variables.keys() - PLAN.trainable} == {
        "moving_mean",
        "moving_variance",
    }


def test_batch_norms_are_known_by_their_parts_and_not_by_their_name() -> None:
    kinds = {f"new_{name}": parts for name, parts in PLAN.table.kinds.items()}
    entries = [replace(entry, layer=replace(entry.layer, kind=f"new_{entry.layer.kind}")) for entry in PLAN.entries]
    plan = replace(PLAN, table=replace(PLAN.table, kinds=kinds), entries=tuple(entries))
    assert is_untrained(MemorySource(initial(PLAN)), plan, "raw") is True
    assert is_untrained(MemorySource(RAW), plan, "raw") is False
