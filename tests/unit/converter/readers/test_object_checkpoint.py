"""TF2 checkpoints under TF1 names: variables, slots, averages, and everything outside the model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from converter.conversion import prepare
from converter.errors import CorruptFileError, MissingFileError, UnsupportedSourceError, ViewError
from converter.inspection import inspect_source
from converter.locate import open_checkpoint
from converter.readers.tensorflow.object_graph import read_names
from converter.readers.tensorflow.tensorbundle import OBJECT_GRAPH
from converter.source import OPTIMIZER_STATE, OTHER_COPY, STEP_COUNT
from support.sources import EMA
from support.tiny_bundle import nested, number, write_bundle
from support.tiny_protos import VALUE, ObjectGraph


def names_of(graph: ObjectGraph) -> dict[str, str]:
    found = read_names(graph.data(), [*graph.values, OBJECT_GRAPH])
    assert not found.model.keys() & found.others.keys()
    return {**found.model, **found.others}


def test_names_of_variables_slots_and_the_rest() -> None:
    graph = ObjectGraph()
    kernel = graph.add("model/_stem/kernel", "b/stem/conv2d/kernel")
    slots = {name: name for name in ("momentum", "m", "v", "rms", "vhat", "anything")} | {"average": EMA}
    for slot in slots:
        graph.add_slot(kernel, slot, "model/_stem/kernel")
    graph.add("model/optimizer/iter", "SGD/iter")
    graph.add("model/optimizer/awg_optimizer/learning_rate", "SGD/learning_rate")
    graph.add("model/nameless", "")
    graph.add("save_counter", "save_counter")
    graph.add("model/layer-1", "", np.array(b"{}", object), ".ATTRIBUTES/OBJECT_CONFIG_JSON")
    key = "model/_stem/kernel/.OPTIMIZER_SLOT/optimizer"
    assert names_of(graph) == {
        "b/stem/conv2d/kernel": f"model/_stem/kernel/{VALUE}",
        **{f"b/stem/conv2d/kernel/{name}": f"{key}/{slot}/{VALUE}" for slot, name in slots.items()},
        "global_step": f"model/optimizer/iter/{VALUE}",
        "optimizer/awg_optimizer/learning_rate": f"model/optimizer/awg_optimizer/learning_rate/{VALUE}",
        "model/nameless": f"model/nameless/{VALUE}",
        "save_counter": f"save_counter/{VALUE}",
        "object_graph": OBJECT_GRAPH,
        "object_graph/model/layer-1/.ATTRIBUTES/OBJECT_CONFIG_JSON": "model/layer-1/.ATTRIBUTES/OBJECT_CONFIG_JSON",
    }


@pytest.mark.parametrize("place", ["optimizer", "solver", "trainer/state/inner"])
def test_variables_of_a_newer_optimizer_under_any_attribute(place: str) -> None:
    """Keras 2.11 and newer write "SGD/m/X" if it was built while training, "m/X" if it was built before."""
    graph = ObjectGraph()
    graph.add("model/gamma", "b/stem_1/tpu_batch_normalization/gamma")
    given = "b/stem_1/tpu_batch_normalization/gamma"
    names = (
        "iteration",
        f"Adam/m/{given}",
        f"v/{given}",
        f"average/{given}",
        "Adam/x/other",
        given,
        f"LS/Adam/u/{given}",
    )
    for entry, name in enumerate(names):
        graph.add(f"{place}/_variables/{entry}", name)
    graph.add(f"{place}/_iterations", "iteration")
    found = names_of(graph)
    assert "global_step" in found
    assert {name for name in found if "gamma" in name} == {
        "b/stem/tpu_batch_normalization/gamma",
        *(f"b/stem/tpu_batch_normalization/gamma/{name}" for name in ("m", "v", "u", EMA, "_variables")),
    }
    assert {name.rsplit("/", 1)[1] for name in found if name.startswith("optimizer/")} == {"0", "4"}


def test_an_optimizer_that_owns_the_keys_of_the_model() -> None:
    """In Keras 3 the first path to a variable leads through the optimizer, and averages are known by their place."""
    graph = ObjectGraph()
    for index, leaf in enumerate(("gamma", "beta")):
        place = graph.add(f"optimizer/_trainable_variables/{index}", f"net/class_net/bn/{leaf}")
        graph.link(f"model/{leaf}", place)
        average = graph.add(f"optimizer/_variables/{index + 1}", f"adam/net_class_net_bn_{leaf}_average")
        graph.link(f"optimizer/_model_variables_moving_average/{index}", average)
    graph.add("optimizer/_variables/3", "scaled/adam/net_class_net_bn_gamma_velocity_hat")
    graph.add("optimizer/_iterations", "adam/iteration")
    found = read_names(graph.data(), [*graph.values, OBJECT_GRAPH])
    assert set(found.model) == {"class_net/bn/gamma", "class_net/bn/beta"}
    assert set(found.others) == {
        f"class_net/bn/gamma/{EMA}",
        f"class_net/bn/beta/{EMA}",
        "class_net/bn/gamma/velocity_hat",
        "global_step",
        "object_graph",
    }


@pytest.mark.parametrize("suffix", [EMA, f"{EMA}_1"])
def test_shadows_are_averages(suffix: str) -> None:
    graph = ObjectGraph()
    graph.add("net/gamma", "b/stem_2/tpu_batch_normalization/gamma")
    graph.add("shadows/0", f"b/stem_2/tpu_batch_normalization/gamma/{suffix}")
    found = read_names(graph.data(), [*graph.values, OBJECT_GRAPH])
    assert found.model.keys() == {"b/stem/tpu_batch_normalization/gamma"}
    assert f"b/stem/tpu_batch_normalization/gamma/{EMA}" in found.others


def test_two_averages_of_a_variable_are_refused_and_two_momenta_are_not() -> None:
    graph = ObjectGraph()
    gamma = graph.add("net/gamma", "x/gamma")
    for optimizer in ("first", "second"):
        graph.add_slot(gamma, "momentum", "net/gamma", optimizer=optimizer)
    assert {"x/gamma/momentum", f"optimizer/net/gamma/.OPTIMIZER_SLOT/second/momentum/{VALUE}"} <= set(names_of(graph))
    for optimizer in ("first", "second"):
        graph.add_slot(gamma, "average", "net/gamma", optimizer=optimizer)
    with pytest.raises(UnsupportedSourceError, match=rf"first/average.*second/average.* both named 'x/gamma/{EMA}'"):
        names_of(graph)


def test_a_number_without_a_scope_is_called_by_its_key() -> None:
    graph = ObjectGraph()
    for name in ("step", "epoch"):
        graph.add(name, "Variable")
    graph.add("counter", "global_step")
    graph.add("solver/iter", "SGD/iter")
    graph.add("solver/decay", "SGD/decay")
    assert {"step", "epoch", "global_step", "optimizer/solver/iter", "optimizer/solver/decay"} <= set(names_of(graph))


def test_a_root_that_counts_steps_is_no_optimizer() -> None:
    graph = ObjectGraph()
    for name in ("iter", "learning_rate"):
        graph.add(name, "Variable")
    graph.add("net/gamma", "x/gamma")
    assert {"iter", "learning_rate", "x/gamma"} <= set(names_of(graph))


def test_training_on_a_hub_module() -> None:
    graph = ObjectGraph()
    graph.add("base_model/box_net.Sbox-0.Sbias:0", "outer/anything/bias")
    graph.add("base_model/trainable_variables", "")
    for head in ("classes", "boxes"):
        graph.add(f"{head}/bias", f"hub/{head}/bias")
    found = names_of(graph)
    assert found["box_net/box-0/bias"].startswith("base_model/")
    assert found["class_net/class-predict/bias"].startswith("classes/")
    assert found["box_net/box-predict/bias"].startswith("boxes/")


def test_a_hub_module_itself() -> None:
    graph = ObjectGraph()
    graph.add("box_net.Sbox-0.Sbias:0", "")
    graph.add("classes/bias", "dense/bias")
    found = names_of(graph)
    assert found["box_net/box-0/bias"] == f"box_net.Sbox-0.Sbias:0/{VALUE}"
    assert "class_net/class-predict/bias" not in found  # without base_model/ it is any attribute


def test_attributes_of_these_names_alone_are_no_hub_module() -> None:
    graph = ObjectGraph()
    graph.add("base_model/kernel", "conv2d/kernel")
    graph.add("classes/bias", "dense/bias")
    assert {"conv2d/kernel", "dense/bias"} <= set(names_of(graph))


def test_a_key_that_the_graph_does_not_list_keeps_its_name() -> None:
    found = read_names(b"", [f"stray/{VALUE}", OBJECT_GRAPH, "odd"])
    assert found.model == {"stray": f"stray/{VALUE}"}
    assert set(found.others) == {"object_graph", "object_graph/odd"}


def test_two_models_are_refused() -> None:
    graph = ObjectGraph()
    graph.add("a/gamma", "x/gamma")
    graph.add("b/gamma", "x/gamma")
    with pytest.raises(UnsupportedSourceError, match=rf"a/gamma/{VALUE} and b/gamma/{VALUE} are both named 'x/gamma'"):
        names_of(graph)


def test_a_lost_average_is_noticed(tmp_path: Path) -> None:
    """Otherwise the variable would be treated as one that is not averaged."""
    graph = ObjectGraph()
    for name in ("beta", "gamma"):
        graph.add_slot(graph.add(f"model/{name}", f"x/{name}"), "average", f"model/{name}")
    assert len(names_of(graph)) == 5
    del graph.values[f"model/gamma/.OPTIMIZER_SLOT/optimizer/average/{VALUE}"]
    with pytest.raises(CorruptFileError, match=r"model/gamma/.*average.* is listed but not stored \(1 of 4"):
        open_checkpoint(graph.write(tmp_path / "ckpt-1"))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"\x0a\x05", "5 bytes and 0 are left"),
        (nested(1, nested(3, number(1, 7) + number(3, 0))), "refers to the objects 7 and 0 of 1"),
        (nested(1, nested(3, number(1, -1) + number(3, 0))), "refers to the objects -1 and 0 of 1"),
        (nested(1, nested(2, nested(3, b"\xff"))), "is not text"),
        (nested(1, nested(1, number(1, 5) + nested(2, b"net"))), "attribute 'net' refers to the object 5 of 1"),
    ],
)
def test_damaged_graphs(tmp_path: Path, data: bytes, words: str) -> None:
    prefix = write_bundle(tmp_path / "ckpt-1", {OBJECT_GRAPH: np.array(data, object)})
    with pytest.raises(CorruptFileError, match=rf"ckpt-1: .*{words}.*another checkpoint"):
        open_checkpoint(prefix)


def test_without_the_data_file_there_are_no_names(tmp_path: Path) -> None:
    prefix = ObjectGraph().write(tmp_path / "ckpt-1")
    Path(f"{prefix}.data-00000-of-00001").unlink()
    with pytest.raises(MissingFileError, match=r"ckpt-1\.data-00000-of-00001: _CHECKPOINTABLE_OBJECT_GRAPH"):
        open_checkpoint(prefix)


@pytest.mark.parametrize(("name", "is_said"), [("ckpt-3", False), ("emackpt-3", True)])
def test_without_averages_the_file_name_is_a_hint(tmp_path: Path, name: str, is_said: bool) -> None:
    graph = ObjectGraph()
    graph.add("model/gamma", "x/gamma")
    with open_checkpoint(graph.write(tmp_path / name)) as source:
        assert source.facts.notes == ()
        assert "does not say whether it is the averages" in source.facts.raw_reason
        assert ("its name (emackpt-3) says that it is" in source.facts.raw_reason) is is_said


@pytest.mark.parametrize("same", [True, False])
def test_what_a_checkpoint_of_training_lost(tmp_path: Path, same: bool) -> None:
    graph = ObjectGraph()
    gamma = graph.add("model/gamma", "x/gamma", 1.0)
    graph.add_slot(gamma, "average", "model/gamma", 1.0 if same else 2.0)
    with open_checkpoint(graph.write(tmp_path / "ckpt-1")) as source:
        lost = ("the raw values",) if same else ()
        assert source.facts.unrecoverable == (*lost, "the optimizer's state", "the number of training steps")
    graph.add("optimizer/iter", "SGD/iter")
    graph.add("optimizer/decay", "SGD/decay")
    with open_checkpoint(graph.write(tmp_path / "ckpt-2")) as source:
        assert source.facts.unrecoverable == lost
    slots = ObjectGraph()
    slots.add_slot(slots.add("model/gamma", "x/gamma", 1.0), "momentum", "model/gamma", 2.0)
    with open_checkpoint(slots.write(tmp_path / "ckpt-3")) as source:
        assert source.facts.unrecoverable == (OTHER_COPY, STEP_COUNT)


def test_official_checkpoint(shared: Path) -> None:
    folder = shared / "trained_d0_256" / "tf2_object_checkpoint"
    with open_checkpoint(folder) as source:
        assert (source.kind, source.path, source.facts.folder) == ("TF2 object checkpoint", folder, folder)
        assert [path.name for path in source.files()] == ["model.index", "model.data-00000-of-00001"]
        prepared = prepare(source)
        assert prepared.view.name == "raw"
        assert set(source.variables) == {*prepared.plan.variables, "object_graph"}
        with pytest.raises(ViewError, match=r"no averages \(EMA\)"):
            prepare(source, weights="ema")
        facts = inspect_source(source)
    assert facts["problems"] == []
    assert facts["unrecoverable"] == [OTHER_COPY, OPTIMIZER_STATE, STEP_COUNT]
