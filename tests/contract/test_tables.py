"""The mapping table against everything it must agree with: the live model, official variable lists, real indexes."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch

from converter.errors import MissingFileError
from converter.identify.families import DETECTOR
from converter.plan.copies import UNTRAINED, View, ViewName, stored_names
from converter.plan.engine import account
from converter.plan.expand import Plan
from converter.readers.tensorflow.tensorbundle import TensorBundle
from converter.source import VariableInfo
from effdet_torch import create_model
from effdet_torch.config import VARIANTS, get_config
from support.sources import EMA, architecture_of

Shapes = dict[str, tuple[int, ...]]
LISTED = ("d0", "d1", "d2", "d4", "d6", "d7x", "lite0", "lite2", "lite4")
INDEXES = {
    "efficientdet-d0": "d0",
    "efficientdet-d1": "d1",
    "efficientdet-d2": "d2",
    "efficientdet-d0.savedmodel": "d0",
}
# Key list -> number of stored names that are no part of either copy: the step, and the slots of what is trained.
DIALECTS = {"d0_tf1_trainreal": 1 + 493, "d0_tf1_exportckpt": 1, "d0_tf1_savedmodel": 1}


def plan_of(variant: str, redundant_bias: bool = False) -> Plan:
    return DETECTOR.plan(get_config(variant, redundant_bias=redundant_bias))


def view_of(plan: Plan, name: ViewName) -> View:
    other: ViewName = "raw" if name == "ema" else "ema"
    return View(name, "", stored_names(plan, name), dict.fromkeys(stored_names(plan, other).values(), other))


# The live model.


@pytest.mark.parametrize("redundant_bias", [False, True])
@pytest.mark.parametrize("variant", VARIANTS)
def test_targets_are_the_state_dict_of_the_live_model(variant: str, redundant_bias: bool) -> None:
    with torch.device("meta"):
        model = create_model(variant, redundant_bias=redundant_bias)
    expected: Shapes = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
    plan = plan_of(variant, redundant_bias)
    assert {key: entry.target_shape for key, entry in plan.targets.items()} == expected


def test_the_other_layout_is_another_state_dict() -> None:
    """Negative control: the comparison above sees both."""
    with torch.device("meta"):
        keys = create_model("lite0").state_dict().keys()
    assert plan_of("lite0").targets.keys() == keys
    assert plan_of("lite0", redundant_bias=True).targets.keys() > keys


# The official variables.


def read_list(path: Path) -> Shapes:
    pairs = (line.split("\t") for line in path.read_text().splitlines())
    return {name: tuple(int(size) for size in shape.split(",") if size) for name, shape in pairs}


@pytest.mark.parametrize("variant", LISTED)
def test_variables_are_the_official_ones(shared: Path, variant: str) -> None:
    expected = read_list(shared / "reference" / "variables" / f"{variant}.tsv")
    assert plan_of(variant).variables == expected


def test_every_official_list_is_compared(shared: Path) -> None:
    assert {path.stem for path in (shared / "reference" / "variables").glob("*.tsv")} == set(LISTED)


def test_variables_of_another_variant_differ(shared: Path) -> None:
    """Negative control: the same names with other shapes, and other names."""
    expected = read_list(shared / "reference" / "variables" / "d1.tsv")
    assert plan_of("d0").variables != expected
    assert len(plan_of("d0").variables) == 709


# Real index files, and the name lists of other formats.


@pytest.mark.parametrize("view", ["raw", "ema"])
@pytest.mark.parametrize("name", INDEXES)
def test_real_indexes_are_fully_accounted_for(shared: Path, name: str, view: ViewName) -> None:
    with TensorBundle(shared / "reference" / "official_indexes" / name) as source:
        variant, variables = INDEXES[name], source.variables
        assert architecture_of(variables).variants() == [variant]
        plan = plan_of(variant)
        accounting = account(variables, plan, view_of(plan, view))
        assert accounting.problems == []
        parts = (accounting.consumed, accounting.other_view, tuple(accounting.ignored))
        assert sorted(name for part in parts for name in part) == sorted(variables)
        assert len(accounting.consumed) == len(plan.variables)
        with pytest.raises(MissingFileError):  # the index alone was enough
            source.read(accounting.consumed[0])


def read_keys(path: Path) -> dict[str, VariableInfo]:
    variables = {}
    for line in path.read_text().splitlines():
        name, dtype, shape = line.split("\t")
        variables[name] = VariableInfo(dtype, tuple(int(size) for size in shape.strip("[]").split(",") if size.strip()))
    return variables


@pytest.mark.parametrize("view", ["raw", "ema"])
@pytest.mark.parametrize("dialect", DIALECTS)
def test_name_lists_are_fully_accounted_for(shared: Path, dialect: str, view: ViewName) -> None:
    variables = read_keys(shared / "reference" / "dialects" / f"{dialect}.keys.txt")
    plan = plan_of("d0")
    accounting = account(variables, plan, view_of(plan, view))
    assert accounting.problems == []
    assert (len(accounting.consumed), len(accounting.other_view)) == (709, 709)
    assert len(accounting.ignored) == DIALECTS[dialect]


def test_a_training_checkpoint_ignores_what_it_should(shared: Path) -> None:
    variables = read_keys(shared / "reference" / "dialects" / "d0_tf1_trainreal.keys.txt")
    plan = plan_of("d0")
    reasons = Counter(account(variables, plan, view_of(plan, "ema")).ignored.values())
    assert reasons["training step counter"] == 1
    assert reasons["optimizer slot: momentum"] == sum(name.endswith("/Momentum") for name in variables)
    assert set(reasons) == {"training step counter", "optimizer slot: momentum"}


@pytest.mark.parametrize("dialect", ["d0_tf2_object_checkpoint", "d0_tf2_savedmodel"])
def test_names_of_another_dialect_are_not_taken_for_ours(shared: Path, dialect: str) -> None:
    """Negative control: the same model under other names leaves everything missing and nothing explained."""
    variables = read_keys(shared / "reference" / "dialects" / f"{dialect}.keys.txt")
    plan = plan_of("d0")
    accounting = account(variables, plan, view_of(plan, "raw"))
    assert len(accounting.missing) == 709
    assert len(accounting.unexpected) == len(variables)


# The table itself.


def test_every_kind_and_every_row_is_used_by_some_variant() -> None:
    table = DETECTOR.table
    layers = [layer for variant in VARIANTS for layer in plan_of(variant).layers]
    assert {layer.kind for layer in layers} == set(table.kinds)
    assert {layer.row.where for layer in layers} == {row.where for group in table.groups for row in group.rows}


def test_the_check_for_untrained_copies_finds_batch_norms() -> None:
    """`views` looks for this kind and these tensors; under other names, every copy would look untrained."""
    parts = {part.target for part in DETECTOR.table.kinds["batch_norm"]}
    assert parts >= set(UNTRAINED)
    assert any(entry.layer.kind == "batch_norm" for entry in plan_of("d0").targets.values())


def test_every_redundant_bias_is_folded_somewhere() -> None:
    for variant in VARIANTS:
        entries = plan_of(variant).entries
        dropped = {name for entry in entries if entry.target is None for name in entry.sources}
        assert dropped
        assert dropped == {entry.folds for entry in entries if entry.folds}


def test_no_variable_is_stored_under_the_name_of_another() -> None:
    for variant in VARIANTS:
        plan = plan_of(variant)
        raw, ema = (set(stored_names(plan, view).values()) for view in ("raw", "ema"))
        assert not raw & ema
        assert all(name.endswith(f"/{EMA}") for name in ema)
