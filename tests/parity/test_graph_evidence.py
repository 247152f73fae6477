"""What TensorFlow's graphs show of the network: every change is seen, in every kind of file, and nothing is guessed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converter.hparams.fields import config_fields
from converter.locate import open_checkpoint
from converter.readers.tensorflow.graphs.evidence import graph_of
from converter.readers.tensorflow.graphs.nodes import GRAPH_DEF, META_GRAPH_DEF, SAVED_MODEL
from converter.source import GraphEvidence
from support.graphs import edit_graph
from support.official_graph import BIFPN, Network, write_frozen, write_meta, write_saved_model

pytest.importorskip("tensorflow")

# The network of `Network()`, as its graph shows it.
USUAL = {
    "act_type": "swish",
    "survival_prob": False,
    "conv_after_downsample": False,
    "separable_conv": True,
    "fpn_weight_method": "fastattn",
    "image_size": 64,
    "fpn_config": {
        "nodes": [{"feat_level": level, "inputs_offsets": list(offsets)} for level, offsets in BIFPN],
        "weight_method": "fastattn",
    },
}
REWIRED = ((5, (3, 2)), (4, (1, 4)), (3, (0, 5)), (4, (1, 5, 6)), (5, (7, 4)), (6, (3, 7, 8)))


def test_what_graphs_show_are_official_hyperparameters() -> None:
    """Names and values are read like those of a config.yaml, but for the residuals, whose probability is unknown."""
    fields = config_fields({**USUAL, "survival_prob": 0.8})
    assert fields["fpn_config"] == BIFPN
    assert (fields["fusion"], fields["activation"], fields["image_size"]) == ("fastattn", "swish", (64, 64))


def fused(method: str) -> dict[str, Any]:
    return {"fpn_weight_method": method, "fpn_config": {**USUAL["fpn_config"], "weight_method": method}}


def of_meta(folder: Path, network: Network) -> GraphEvidence:
    return graph_of(write_meta(folder / "model.meta", network), META_GRAPH_DEF)()


def of_frozen(folder: Path, network: Network) -> GraphEvidence:
    return graph_of(write_frozen(folder / "d0_frozen.pb", network), GRAPH_DEF)()


def of_saved_model(folder: Path, network: Network) -> GraphEvidence:
    saved = write_saved_model(folder / "saved", replace(network, absolute=True))
    return graph_of(saved / "saved_model.pb", SAVED_MODEL)()


FILES = (of_meta, of_frozen, of_saved_model)


@pytest.mark.parametrize(
    ("change", "seen"),
    [
        ({}, {}),
        pytest.param({"activation": "swish_native"}, {}, marks=pytest.mark.slow),
        *(
            pytest.param({"activation": name}, {"act_type": name}, marks=[pytest.mark.slow] * (name != "mish"))
            for name in ("relu6", "relu", "mish", "srelu")
        ),
        ({"activation": "hswish", "has_residuals": True}, {"act_type": "hswish", "survival_prob": True}),
        ({"has_residuals": True, "repeats": 3}, {"survival_prob": True}),
        *(
            pytest.param({"fusion": name}, fused(name), marks=[pytest.mark.slow] * name.startswith("channel"))
            for name in ("sum", "attn", "channel_attn", "channel_fastattn")
        ),
        ({"pools_first": True}, {"conv_after_downsample": True}),
        ({"separable": False}, {"separable_conv": False}),
        ({"size": (64, 96)}, {"image_size": "96x64"}),
        (
            {"nodes": REWIRED},
            {"fpn_config": {"nodes": [{"feat_level": a, "inputs_offsets": list(b)} for a, b in REWIRED]}},
        ),
    ],
)
def test_every_change_is_seen_in_a_graph_of_tf1(change: dict[str, Any], seen: dict[str, Any], tmp_path: Path) -> None:
    evidence = of_meta(tmp_path, Network(**change))
    expected = {**USUAL, **seen}
    expected["fpn_config"] = {**expected["fpn_config"], "weight_method": expected["fpn_weight_method"]}
    assert (evidence.hparams, evidence.notes) == (expected, ())
    assert evidence.origin == "graph (model.meta)"
    assert evidence.nodes.keys() == expected.keys()


@pytest.mark.parametrize("read", FILES[1:])
@pytest.mark.parametrize(
    ("change", "seen"),
    [
        pytest.param({}, {}, marks=pytest.mark.slow),
        (
            {"activation": "hswish", "fusion": "channel_attn", "has_residuals": True, "pools_first": True},
            {"act_type": "hswish", "survival_prob": True, "conv_after_downsample": True, **fused("channel_attn")},
        ),
    ],
)
def test_other_files_show_the_same(
    read: Callable[[Path, Network], GraphEvidence], change: dict[str, Any], seen: dict[str, Any], tmp_path: Path
) -> None:
    evidence = read(tmp_path, Network(**change))
    assert (evidence.hparams, evidence.notes) == ({**USUAL, **seen}, ())


@pytest.mark.parametrize("has_residuals", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_training_graph_can_be_read(has_residuals: bool, tmp_path: Path) -> None:
    """With batch statistics, gradients, averages, an optimizer, and residuals behind dropped branches."""
    evidence = of_meta(tmp_path, Network(is_training=True, has_residuals=has_residuals))
    assert (evidence.hparams, evidence.notes) == ({**USUAL, "survival_prob": has_residuals}, ())


@pytest.mark.parametrize(
    ("change", "lost"),
    [
        ({"activation": "elu"}, {"act_type"}),
        ({"fusion": "product"}, {"fpn_weight_method", "fpn_config"}),
        ({"repeats": 1, "has_residuals": True}, {"survival_prob"}),  # which then changes nothing
    ],
)
def test_nothing_is_guessed(change: dict[str, Any], lost: set[str], tmp_path: Path) -> None:
    evidence = of_meta(tmp_path, Network(**change))
    assert evidence.hparams == {name: value for name, value in USUAL.items() if name not in lost}
    assert all("is not clear: an unknown computation (" in note for note in evidence.notes)


@pytest.fixture(scope="module")
def relu6(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_meta(tmp_path_factory.mktemp("relu6") / "model.meta", Network(activation="relu6"))


def _activate_otherwise(graph_def: Any) -> None:
    next(node for node in graph_def.node if node.name == "efficientnet-b0/stem/Relu6").op = "Relu"


def _rename(graph_def: Any) -> None:
    for node in graph_def.node:
        node.name = node.name.replace("_net/", "_branch/").replace("fpn_cells/", "pyramid/").replace("stem/", "root/")
        node.name = node.name.replace("resample_p", "level_")


def _prefix(graph_def: Any) -> None:
    for node in graph_def.node:
        node.name = f"tower_0/{node.name}"
        node.input[:] = [f"^tower_0/{name[1:]}" if name[0] == "^" else f"tower_0/{name}" for name in node.input]


def _resize_input(graph_def: Any) -> None:
    next(node for node in graph_def.node if node.name == "input").attr["shape"].shape.dim[1].size = -1


def _lose_node(graph_def: Any) -> None:
    kept = [node for node in graph_def.node if "fnode2/add_n" not in node.name]
    del graph_def.node[:]
    graph_def.node.extend(kept)


@pytest.mark.parametrize(
    ("change", "lost"),
    [
        (_activate_otherwise, {"act_type"}),
        (_rename, set(USUAL)),
        (_prefix, set()),
        (_resize_input, {"image_size"}),
        (_lose_node, {"fpn_config"}),
    ],
)
def test_what_is_not_clear_is_left_out(
    change: Callable[[Any], None], lost: set[str], relu6: Path, tmp_path: Path
) -> None:
    evidence = graph_of(edit_graph(relu6, tmp_path / "model.meta", change), META_GRAPH_DEF)()
    expected = {**USUAL, "act_type": "relu6"}
    assert evidence.hparams == {name: value for name, value in expected.items() if name not in lost}
    contradiction = "act_type is not clear: relu (efficientnet-b0/stem/Relu6) and relu6 ("
    assert any(contradiction in note for note in evidence.notes) == (change is _activate_otherwise)


def test_anchors_and_graph_of_a_saved_model(tmp_path: Path) -> None:
    """A constant of a function is one of the graph around it; the source knows its graph."""
    from effdet_torch.config import get_config
    from effdet_torch.geometry.anchors import make_anchors_yxyx

    config = get_config("d0", image_size=(64, 64), max_level=6, anchor_scale=3.5, num_scales=2)
    anchors = np.asarray(make_anchors_yxyx(config), np.float32)
    folder = write_saved_model(tmp_path / "saved", Network(absolute=True), anchors)
    with open_checkpoint(folder) as source:
        assert source.facts.graph is not None
        evidence = source.facts.graph()
        assert evidence is source.facts.graph()
    assert evidence.origin == "graph (saved_model.pb)"
    assert evidence.hparams == {**USUAL, "anchor_scale": 3.5, "num_scales": 2, "aspect_ratios": [1.0, 2.0, 0.5]}
