"""The mapping table against everything that it must match: the live model, official variable lists, real indexes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from converter.errors import MissingFileError
from converter.identify.families import DETECTOR
from converter.plan.copies import UNTRAINED, View, ViewName, stored_names
from converter.plan.engine import Accounting, account
from converter.plan.expand import Plan
from converter.readers.tensorflow.object_graph import read_names
from converter.readers.tensorflow.tensorbundle import OBJECT_GRAPH, TensorBundle
from converter.source import VariableInfo
from effdet_torch import create_model
from effdet_torch.config import MODELS, VARIANTS, get_config
from support.sources import EMA, architecture_of
from support.tiny_protos import VALUE, ObjectGraph

Variables = Mapping[str, VariableInfo]
LISTED = ("d0", "d1", "d2", "d4", "d6", "d7x", "lite0", "lite2", "lite4")
VIEWS = pytest.mark.parametrize("view", ["raw", "ema"])
INDEXES = ("efficientdet-d0", "efficientdet-d1", "efficientdet-d2", "efficientdet-d0.savedmodel")
STEP, MOMENTUM = "training step counter", "optimizer slot: momentum"
# Key list -> {reason: number of stored names that do not belong to either copy}.
DIALECTS = {
    "d0_tf1_trainreal": {STEP: 1, MOMENTUM: 493},
    "d0_tf1_exportckpt": {STEP: 1},
    "d0_tf1_savedmodel": {STEP: 1},
}
HEAD = {
    "_conv_head/kernel": "conv2d/kernel",
    "_fc/bias": "dense/bias",
    "_fc/kernel": "dense/kernel",
    **{
        f"_bn/{leaf}": f"tpu_batch_normalization/{leaf}" for leaf in ("beta", "gamma", "moving_mean", "moving_variance")
    },
}


def plan_of(variant: str, redundant_bias: bool = False) -> Plan:
    return DETECTOR.plan(get_config(variant, redundant_bias=redundant_bias))


def accounting_of(variables: Variables, plan: Plan, name: ViewName) -> Accounting:
    other: ViewName = "raw" if name == "ema" else "ema"
    others = dict.fromkeys(stored_names(plan, other).values(), other)
    return account(variables, plan, View(name, "", stored_names(plan, name), others))


# The live model.


@pytest.mark.parametrize("redundant_bias", [False, True])
@pytest.mark.parametrize("variant", VARIANTS)
def test_targets_are_the_state_dict_of_the_live_model(variant: str, redundant_bias: bool) -> None:
    with torch.device("meta"):
        model = create_model(variant, redundant_bias=redundant_bias)
        other = create_model(variant, redundant_bias=not redundant_bias)
    targets = {key: entry.target_shape for key, entry in plan_of(variant, redundant_bias).targets.items()}
    assert targets == {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
    assert targets.keys() != other.state_dict().keys()  # negative control


# The official variables.


def read_list(path: Path) -> dict[str, tuple[int, ...]]:
    pairs = (line.split("\t") for line in path.read_text().splitlines())
    return {name: tuple(int(size) for size in shape.split(",") if size) for name, shape in pairs}


def test_variables_are_the_official_ones(shared: Path) -> None:
    lists = {path.stem: read_list(path) for path in (shared / "reference" / "variables").glob("*.tsv")}
    assert set(lists) == set(LISTED)
    for variant, expected in lists.items():
        assert plan_of(variant).variables == expected
    assert len(lists["d0"]) == 709
    assert plan_of("d0").variables != lists["d1"]  # negative control


# Real index files, and the name lists of other formats.


@VIEWS
@pytest.mark.parametrize("name", INDEXES)
def test_real_indexes_are_fully_accounted_for(shared: Path, name: str, view: ViewName) -> None:
    with TensorBundle(shared / "reference" / "official_indexes" / name) as source:
        variant, variables = name[13:15], source.variables
        assert architecture_of(variables).variants() == [variant]
        plan = plan_of(variant)
        accounting = accounting_of(variables, plan, view)
        assert accounting.problems == []
        parts = (accounting.consumed, accounting.other_view, tuple(accounting.ignored))
        assert sorted(name for part in parts for name in part) == sorted(variables)
        assert len(accounting.consumed) == len(plan.variables)
        with pytest.raises(MissingFileError):  # the index alone was enough
            source.read(accounting.consumed[0])


def read_keys(shared: Path, name: str) -> dict[str, VariableInfo]:
    variables = {}
    for line in (shared / "reference" / "dialects" / f"{name}.keys.txt").read_text().splitlines():
        key, dtype, shape = line.split("\t")
        variables[key] = VariableInfo(dtype, tuple(int(size) for size in shape.strip("[]").split(",") if size.strip()))
    return variables


@VIEWS
@pytest.mark.parametrize("dialect", DIALECTS)
def test_name_lists_are_fully_accounted_for(shared: Path, dialect: str, view: ViewName) -> None:
    accounting = accounting_of(read_keys(shared, dialect), plan_of("d0"), view)
    assert accounting.problems == []
    assert (len(accounting.consumed), len(accounting.other_view)) == (709, 709)
    reasons = list(accounting.ignored.values())
    assert {reason: reasons.count(reason) for reason in reasons} == DIALECTS[dialect]


def object_graph(shared: Path, dialect: str) -> bytes:
    """The graph that names the keys: stored in the checkpoint, or built from the list of the SavedModel's names."""
    if dialect == "d0_tf2_object_checkpoint":
        with TensorBundle(shared / "trained_d0_256" / "tf2_object_checkpoint" / "model") as bundle:
            return b"".join(bundle.read(OBJECT_GRAPH).flat)
    lines = (shared / "reference" / "dialects" / f"{dialect}.map.txt").read_text().splitlines()
    graph = ObjectGraph()
    for name, key in (line.split("\t") for line in lines):
        graph.add(key.removesuffix(f"/{VALUE}"), name)
    for path, name in HEAD.items():
        graph.add(f"model/backbone/_head/{path}", f"head/{name}")
    return graph.data()


@pytest.mark.parametrize(("dialect", "ignored"), [("d0_tf2_object_checkpoint", 1), ("d0_tf2_savedmodel", 8)])
def test_names_of_tf2_are_fully_accounted_for(shared: Path, dialect: str, ignored: int) -> None:
    keys, plan = read_keys(shared, dialect), plan_of("d0")
    found = read_names(object_graph(shared, dialect), keys)
    variables = {name: keys[key] for name, key in {**found.model, **found.others}.items()}
    accounting = accounting_of(variables, plan, "raw")
    assert accounting.problems == []
    assert (len(accounting.consumed), len(accounting.ignored)) == (709, ignored)
    assert len(variables) == len(keys)
    # Negative control: under their own keys, everything is missing, and what has a shape is unexpected.
    own = accounting_of(keys, plan, "raw")
    shaped = {key for key, info in keys.items() if info.shape}
    assert (len(own.missing), shaped - set(own.unexpected)) == (709, set())


# The table itself.


def test_every_kind_and_every_row_is_used_by_some_variant() -> None:
    table = DETECTOR.table
    others = [
        {"fusion": "channel_attn", "survival_prob": 0.8},
        {"separable_conv": False, "apply_bn_for_resampling": False},
        {"conv_bn_act_pattern": True},
        {"conv_bn_act_pattern": True, "separable_conv": False},
        {"heads": ("segmentation",)},
    ]
    configs = [*MODELS.values(), *(get_config("d0", **other) for other in others)]
    layers = [layer for config in configs for layer in DETECTOR.plan(config).layers]
    assert {layer.kind for layer in layers} == set(table.kinds)
    assert {layer.row.where for layer in layers} == {row.where for group in table.groups for row in group.rows}


def test_the_check_for_untrained_copies_finds_batch_norms() -> None:
    """`copies` looks for a kind with these tensors; under other names, there would be no evidence."""
    assert {part.target for part in DETECTOR.table.kinds["batch_norm"]} >= set(UNTRAINED)
    assert any(entry.layer.kind == "batch_norm" for entry in plan_of("d0").targets.values())


@pytest.mark.parametrize("variant", VARIANTS)
def test_biases_are_folded_and_copies_have_different_names(variant: str) -> None:
    plan = plan_of(variant)
    dropped = {name for entry in plan.entries if entry.target is None for name in entry.sources}
    assert dropped
    assert dropped == {entry.folds for entry in plan.entries if entry.folds}
    raw, ema = (set(stored_names(plan, view).values()) for view in ("raw", "ema"))
    assert not raw & ema
    assert all(name.endswith(f"/{EMA}") for name in ema)
