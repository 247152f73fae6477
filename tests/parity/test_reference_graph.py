"""The original graph of a `.meta` file as a reference, against the built-in one."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from support.meta_graph import EMA, edit_graph, write_checkpoint
from verify.reference.meta_graph import GraphReference, find_meta_graph

from effdet_torch.config import EfficientDetConfig, get_config
from support.golden import error_over_rms
from support.tolerances import FLOAT32_RANDOM_INPUT
from support.variable_shapes import random_variables
from verify.errors import GraphError, InputSizeError
from verify.reference.base import import_tensorflow
from verify.reference.network import TensorFlowReference

VARIANTS = ("d0", "lite0")


@dataclass(frozen=True)
class Checkpoint:
    prefix: Path
    config: EfficientDetConfig

    @property
    def meta(self) -> Path:
        return Path(f"{self.prefix}.meta")

    def view(self, view: str) -> dict[str, NDArray[Any]]:
        """Read a view with TensorFlow's own reader."""
        reader = import_tensorflow().train.load_checkpoint(str(self.prefix))
        names = [name for name in reader.get_variable_to_shape_map() if not name.endswith(EMA)]
        return {name: reader.get_tensor(name + EMA * (view == "ema")) for name in names}


@cache
def _graph(checkpoint: Checkpoint, view: str) -> GraphReference:
    return GraphReference(checkpoint.meta, checkpoint.config, checkpoint.view(view))


@pytest.fixture(scope="module", params=VARIANTS)
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    config = get_config(request.param, image_size=(72, 128))
    prefix = tmp_path_factory.mktemp(request.param) / "model"
    write_checkpoint(
        prefix,
        config,
        random_variables(config, seed=1),
        random_variables(config, seed=2),
        resource_variables=request.param == "d0",
    )
    return Checkpoint(prefix, config)


@pytest.fixture
def images() -> NDArray[Any]:
    return np.random.default_rng(0).normal(size=(1, 72, 128, 3)).astype(np.float32)


def _errors(graph: GraphReference, built_in: TensorFlowReference, images: NDArray[Any]) -> dict[Any, float]:
    expected = built_in.run(images)
    return {key: error_over_rms(output, expected[key]) for key, output in graph.run(images).items()}


@pytest.mark.parametrize("view", ["ema", "raw"])
def test_equals_built_in_reference(view: str, checkpoint: Checkpoint, images: NDArray[Any]) -> None:
    variables = checkpoint.view(view)
    graph = _graph(checkpoint, view)
    errors = _errors(graph, TensorFlowReference(checkpoint.config, variables), images)
    assert len(errors) == 1 + 16 + 3 * 8 + 2 * 5 * (3 + 1)
    assert {key: error for key, error in errors.items() if not error <= FLOAT32_RANDOM_INPUT} == {}
    assert graph.describe()["layers"] == f"{len(errors)} of {len(errors)}"
    assert graph.image_size == (72, 128)


def test_other_view_shows(checkpoint: Checkpoint, images: NDArray[Any]) -> None:
    errors = _errors(_graph(checkpoint, "raw"), TensorFlowReference(checkpoint.config, checkpoint.view("ema")), images)
    assert min(errors.values()) > 1e-2


@pytest.mark.parametrize("checkpoint", ["d0"], indirect=True)
def test_outputs_are_the_predictions(checkpoint: Checkpoint, images: NDArray[Any]) -> None:
    variables = checkpoint.view("ema")
    found = _graph(checkpoint, "ema").outputs(images)
    expected = TensorFlowReference(checkpoint.config, variables).outputs(images)
    assert list(found.class_logits) == list(found.box_deltas) == [3, 4, 5, 6, 7]
    for level in range(3, 8):
        assert error_over_rms(found.class_logits[level], expected.class_logits[level]) <= FLOAT32_RANDOM_INPUT
        assert error_over_rms(found.box_deltas[level], expected.box_deltas[level]) <= FLOAT32_RANDOM_INPUT


@pytest.mark.parametrize("checkpoint", ["d0"], indirect=True)
def test_other_image_size_is_refused(checkpoint: Checkpoint) -> None:
    graph = _graph(checkpoint, "ema")
    with pytest.raises(InputSizeError, match=r"\(1, 128, 128, 3\); model.meta was built for \(1, 72, 128, 3\)"):
        graph.run(np.zeros((1, 128, 128, 3), np.float32))


@pytest.mark.parametrize("checkpoint", ["d0"], indirect=True)
def test_absent_layers_are_listed(checkpoint: Checkpoint, images: NDArray[Any], tmp_path: Path) -> None:
    def rename(graph_def: Any) -> None:
        for node in graph_def.node:
            if node.name == "fpn_cells/cell_1/fnode2/op_after_combine7/bn/FusedBatchNormV3":
                node.name = "renamed"

    meta = edit_graph(checkpoint.meta, tmp_path / "model.meta", rename)
    graph = GraphReference(meta, checkpoint.config, checkpoint.view("ema"))
    assert len(graph.run(images)) == 80
    assert graph.describe()["layers"] == "80 of 81"
    assert graph.describe()["layers not found"] == "fpn_cells/cell_1/fnode2/op_after_combine7/bn/FusedBatchNormV3"


def _train(graph_def: Any) -> None:
    for node in graph_def.node:
        if node.op == "FusedBatchNormV3":
            node.attr["is_training"].b = True


def _strip_defaults(graph_def: Any) -> None:
    for node in graph_def.node:
        if node.op == "FusedBatchNormV3":
            del node.attr["is_training"]


def _rename_input(graph_def: Any) -> None:
    for node in graph_def.node:
        node.name = node.name.replace("input", "images") if node.name == "input" else node.name
        node.input[:] = ["images" if name == "input" else name for name in node.input]


def _lose_output(graph_def: Any) -> None:
    for node in graph_def.node:
        node.name = node.name.replace("box_net/box-predict_2/BiasAdd", "lost")


def _lose_node(graph_def: Any) -> None:
    name = next(node.input[0] for node in graph_def.node if node.op == "DepthwiseConv2dNative")
    kept = [node for node in graph_def.node if node.name != name]
    del graph_def.node[:]
    graph_def.node.extend(kept)


def _unknown_operation(graph_def: Any) -> None:
    next(node for node in graph_def.node if node.op == "DepthwiseConv2dNative").op = "NoSuchOperation"


def _write_a_file(graph_def: Any) -> None:
    graph_def.node.add(name="name", op="Const").CopyFrom(_text_constant("name", b"stolen"))
    graph_def.node.add(name="write", op="WriteFile", input=["name", "name"])
    next(node for node in graph_def.node if node.op == "Conv2D").input.append("^write")


def _text_constant(name: str, text: bytes) -> Any:
    tf = import_tensorflow()
    with tf.Graph().as_default() as graph:
        tf.constant(text, name=name)
    return graph.as_graph_def().node[0]


@pytest.mark.parametrize("checkpoint", ["d0"], indirect=True)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_train, "is a training graph"),
        (_strip_defaults, "is a training graph"),
        (_rename_input, "has no placeholder 'input'"),
        (_lose_output, "has no node box_net/box-predict_2/BiasAdd"),
        (_lose_node, "is damaged"),
        (_unknown_operation, "is damaged.*NoSuchOperation"),
        (_write_a_file, "has the operation write of type WriteFile"),
    ],
)
def test_unsuitable_graph_is_refused(change: Any, message: str, checkpoint: Checkpoint, tmp_path: Path) -> None:
    meta = edit_graph(checkpoint.meta, tmp_path / "model.meta", change)
    with pytest.raises(GraphError, match=f"(?s)model.meta {message}.*built-in reference"):
        GraphReference(meta, checkpoint.config, {})


@pytest.mark.parametrize("checkpoint", ["d0"], indirect=True)
@pytest.mark.parametrize(
    ("config", "message"),
    [
        (get_config("d1"), "0 of efficientnet-b1/blocks_N; d1 needs 23"),
        (get_config("d0", fpn_cells=4), "3 of fpn_cells/cell_N; d0 needs 4"),
        (get_config("d0", head_repeats=2), "3 of class_net/class-N; d0 needs 2"),
        (get_config("d0", max_level=6), "5 of class_net/class-0-bn-N; d0 needs 4"),
    ],
)
def test_other_variant_is_refused(config: EfficientDetConfig, message: str, checkpoint: Checkpoint) -> None:
    with pytest.raises(GraphError, match=message):
        GraphReference(checkpoint.meta, config, {})


@pytest.mark.parametrize("checkpoint", ["d0"], indirect=True)
def test_variables_of_another_model_are_refused(checkpoint: Checkpoint) -> None:
    variables = checkpoint.view("ema")
    name = "class_net/class-predict/bias"
    with pytest.raises(GraphError, match=rf"1 variables do not fit, among the checkpoint's {name} .* is \(180,\)"):
        GraphReference(checkpoint.meta, checkpoint.config, {**variables, name: np.zeros(180, np.float32)})
    del variables[name]
    with pytest.raises(GraphError, match=rf"{name} \(810,\) is missing"):
        GraphReference(checkpoint.meta, checkpoint.config, variables)


@pytest.mark.parametrize("checkpoint", ["d0"], indirect=True)
@pytest.mark.parametrize("content", ["cut", "text", "empty", "missing"])
def test_damaged_file_is_refused(content: str, checkpoint: Checkpoint, tmp_path: Path) -> None:
    meta = tmp_path / "model.meta"
    stored = checkpoint.meta.read_bytes()
    damaged = {"cut": stored[: len(stored) // 2], "text": b"<html>404 not found</html>", "empty": b""}
    if content in damaged:
        meta.write_bytes(damaged[content])
    with pytest.raises(GraphError, match=r"model.meta .*built-in reference"):
        GraphReference(meta, checkpoint.config, {})


@pytest.mark.parametrize("checkpoint", ["d0"], indirect=True)
def test_finds_the_graph_beside_a_checkpoint(checkpoint: Checkpoint, tmp_path: Path) -> None:
    assert find_meta_graph(checkpoint.prefix) == checkpoint.meta
    assert find_meta_graph(tmp_path / "model.ckpt-780") is None
