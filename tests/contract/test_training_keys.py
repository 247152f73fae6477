"""The keys of real training runs of the official code: every one has a purpose, and nothing is unexpected."""

from __future__ import annotations

from pathlib import Path

import pytest

from converter.conversion import prepare
from converter.formats.trackable import VALUE, local_name, read_nodes
from converter.locate import open_checkpoint
from converter.plan.copies import View, stored_names
from converter.plan.engine import Accounting, account
from converter.plan.expand import Plan
from converter.readers.tensorflow.object_graph import AVERAGE, read_names
from converter.readers.tensorflow.tensorbundle import OBJECT_GRAPH, TensorBundle
from converter.source import VariableInfo
from effdet_torch.config import get_config
from support.sources import plan_of
from support.tiny_protos import ObjectGraph

SLOT = "/.OPTIMIZER_SLOT/"
SMALL = {"fpn_channels": 32, "fpn_cells": 2, "head_repeats": 2, "num_classes": 90}
TF1 = ("t1_bf16_model.ckpt-2", "t1_posmom_model.ckpt-2", "t1_sgd_model.ckpt-2")
AVERAGED = {
    "t2_adam_emackpt-1": 408,
    "t2_bf16_emackpt-1": 408,
    "t2_ema_emackpt-1": 408,
    "t2_fp16ls_emackpt-1": 408,
    "t2_freeze_emackpt-1": 200,
    "t2_resume_emackpt-2": 408,
    "t2_worker_emackpt-1": 408,
    "t2_noema_ckpt-1": 0,
    "t2_noema_newopt_ckpt-1": 0,
}


def read_keys(shared: Path, name: str) -> dict[str, VariableInfo]:
    variables = {}
    for line in (shared / "reference" / "sources" / "keys" / f"{name}.keys.txt").read_text().splitlines():
        key, dtype, shape = line.split("\t")
        variables[key] = VariableInfo(dtype, tuple(int(size) for size in shape.split(",") if size))
    return variables


def full_names(shared: Path) -> dict[str, str]:
    """{key: name} of a stored d0; smaller networks have some of these keys."""
    with TensorBundle(shared / "trained_d0_256" / "tf2_object_checkpoint" / "model") as bundle:
        graph = b"".join(bundle.read(OBJECT_GRAPH).flat)
    return {node.key: node.full_name for node in read_nodes(graph) if node.key} | segmentation_names()


def segmentation_names() -> dict[str, str]:
    """The facts about the official head: numbered transposes, the last with a name of its own in the object."""
    places = {"kernel": "head_transpose/kernel", "bias": "head_transpose/bias"}
    names = {f"seg_head/{key}": f"conv2d_transpose_4/{leaf}" for leaf, key in places.items()}
    for place in range(4):
        number = f"_{place}" if place else ""
        names[f"seg_head/con2d_ts/{place}/kernel"] = f"conv2d_transpose{number}/kernel"
        for leaf in ("gamma", "beta", "moving_mean", "moving_variance"):
            names[f"seg_head/con2d_t_bns/{place}/{leaf}"] = f"bn_{place}/{leaf}"
    return {f"{key}{VALUE}": f"segmentation_head/{name}" for key, name in names.items()}


def variables_of(shared: Path, run: str) -> dict[str, VariableInfo]:
    """The variables of a TF2 run, read by the graph that its keys tell."""
    keys, names, graph = read_keys(shared, run), full_names(shared), ObjectGraph()
    paths = [key.removesuffix(VALUE) for key in keys if key != OBJECT_GRAPH]
    own = {path: graph.add(path, names.get(path + VALUE, local_name(path))) for path in paths if SLOT not in path}
    trained = [names[path + VALUE] for path in own if "moving_" not in path and path + VALUE in names]
    for path in own:
        if path.startswith("optimizer/_variables/"):
            graph.rename(path, f"SGD/m/{trained.pop()}")
    for path in paths:
        if SLOT in path:
            variable, _, slot = path.partition(SLOT)
            optimizer, _, name = slot.rpartition("/")
            graph.add_slot(own[variable], name, variable, optimizer=optimizer)
    found = read_names(graph.data(), keys)
    return {name: keys[key] for name, key in {**found.model, **found.others}.items()}


def accounting_of(variables: dict[str, VariableInfo], plan: Plan) -> Accounting:
    averages = stored_names(plan, "ema").values()
    return account(variables, plan, View("raw", "", stored_names(plan, "raw"), dict.fromkeys(averages, "ema")))


@pytest.mark.parametrize("run", AVERAGED)
def test_tf2_training(shared: Path, run: str) -> None:
    found = accounting_of(variables_of(shared, run), plan_of(get_config("d0", **SMALL)))
    assert found.problems == []
    assert len(found.other_view) == AVERAGED[run]
    assert "training step counter" in found.ignored.values()


@pytest.mark.parametrize("run", TF1)
def test_tf1_training(shared: Path, run: str) -> None:
    found = accounting_of(read_keys(shared, run), plan_of(get_config("d0", **SMALL)))
    assert found.problems == []
    assert len(found.other_view) == len(found.consumed)


def test_a_detector_beside_a_segmentation_head(shared: Path) -> None:
    variables = variables_of(shared, "d0_seg_tf2_object_checkpoint")
    plan = plan_of(get_config("d0", heads=("object_detection", "segmentation")))
    found = accounting_of(variables, plan)
    assert found.problems == []
    assert len(found.consumed) == 731
    assert {f"segmentation_head/bn_{number}/gamma" for number in range(4)} <= set(variables)
    without = accounting_of(variables, plan_of("d0"))  # negative control
    assert len(without.unexpected) == 2  # the last layer: without it, the head would be unfinished


def test_negative_control(shared: Path) -> None:
    """Without the averages' names, or with a variable of another network, there is a problem."""
    plan = plan_of(get_config("d0", **SMALL))
    variables = variables_of(shared, "t2_ema_emackpt-1")
    renamed = {name.replace(AVERAGE, "ema"): info for name, info in variables.items()}
    assert "X/ema" in " ".join(accounting_of(renamed, plan).ignored.values())
    extra = {**variables, "class_net/class-9/bias": VariableInfo("float32", (32,))}
    assert accounting_of(extra, plan).problems == ["unexpected: class_net/class-9/bias"]


@pytest.mark.parametrize("run", ["t1_posmom/model.ckpt-2.index", "t1_sgd/model.ckpt-2.index"])
def test_indexes_of_real_runs(shared: Path, run: str) -> None:
    with open_checkpoint(shared / "reference" / "sources" / "training" / run) as source:
        found = prepare(source)
    assert (found.view.name, found.accounting.problems) == ("ema", [])
    assert ("moving_normalizer" in found.accounting.ignored) is ("posmom" in run)
