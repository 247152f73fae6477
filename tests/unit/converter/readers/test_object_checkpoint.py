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
    slots = {"momentum": "Momentum", "m": "Adam", "v": "Adam_1", "rms": "RMSProp", "average": EMA}
    for slot in slots:
        graph.add_slot(kernel, slot, "model/_stem/kernel")
    graph.add_slot(kernel, "vhat", "model/_stem/kernel")
    graph.add("model/optimizer/iter", "SGD/iter")
    graph.add("model/optimizer/awg_optimizer/learning_rate", "SGD/learning_rate")
    graph.add("model/nameless", "")
    graph.add("save_counter", "save_counter")
    graph.add("model/layer-1", "", np.array(b"{}", object), ".ATTRIBUTES/OBJECT_CONFIG_JSON")
    key = "model/_stem/kernel/.OPTIMIZER_SLOT/optimizer"
    assert names_of(graph) == {
        "b/stem/conv2d/kernel": f"model/_stem/kernel/{VALUE}",
        **{f"b/stem/conv2d/kernel/{name}": f"{key}/{slot}/{VALUE}" for slot, name in slots.items()},
        f"optimizer/{key}/vhat/{VALUE}": f"{key}/vhat/{VALUE}",
        "global_step": f"model/optimizer/iter/{VALUE}",
        "optimizer/awg_optimizer/learning_rate": f"model/optimizer/awg_optimizer/learning_rate/{VALUE}",
        "model/nameless": f"model/nameless/{VALUE}",
        "save_counter": f"save_counter/{VALUE}",
        "object_graph": OBJECT_GRAPH,
        "object_graph/model/layer-1/.ATTRIBUTES/OBJECT_CONFIG_JSON": "model/layer-1/.ATTRIBUTES/OBJECT_CONFIG_JSON",
    }


def test_slots_in_the_list_of_a_newer_optimizer() -> None:
    graph = ObjectGraph()
    graph.add("model/gamma", "b/stem_1/tpu_batch_normalization/gamma")
    for place, name in enumerate(("iteration", "Adam/m/b/stem_1/tpu_batch_normalization/gamma", "Adam/x/other")):
        graph.add(f"optimizer/_variables/{place}", name)
    graph.add("optimizer/_iterations", "iteration")
    assert set(names_of(graph)) == {
        "b/stem/tpu_batch_normalization/gamma",
        "b/stem/tpu_batch_normalization/gamma/Adam",
        "optimizer/_variables/0",
        "optimizer/_variables/2",
        "global_step",
        "object_graph",
    }


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
        assert inspect_source(source)["problems"] == []
