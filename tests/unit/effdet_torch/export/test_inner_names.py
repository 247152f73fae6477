"""Names of inner outputs: what leaves a module is called like it, level by level, and nothing else changes."""

from __future__ import annotations

from typing import Any

import pytest

from effdet_torch.export.writers.inner_names import SCOPES, name_inner_outputs

onnx = pytest.importorskip("onnx")


def node(kind: str, inputs: list[str], output: str, *scopes: str) -> Any:
    made = onnx.helper.make_node(kind, inputs, [output])
    made.metadata_props.add(key=SCOPES, value=repr(["", *scopes, output]))
    return made


def graph(*nodes: Any, outputs: tuple[str, ...]) -> Any:
    values = [onnx.ValueInfoProto(name=name) for name in ("images", *outputs)]
    return onnx.helper.make_graph(nodes, "graph", values[:1], values[1:])


def test_what_leaves_a_module_has_its_name() -> None:
    stem, block = ("model", "model.backbone.bn1"), ("model", "model.backbone.blocks.0.0")
    found = graph(
        node("Sigmoid", ["images"], "inside", *stem),
        node("Mul", ["images", "inside"], "act", *stem),
        node("Conv", ["act"], "conv", *block, "model.backbone.blocks.0.0.conv_dw"),
        node("Add", ["conv", "act"], "sum", *block),
        node("Relu", ["sum"], "result", "model"),
        outputs=("result",),
    )
    found.value_info.extend([onnx.ValueInfoProto(name="act"), onnx.ValueInfoProto(name="conv")])
    name_inner_outputs(found)
    assert [each.output[0] for each in found.node] == [
        "inside",
        "backbone.bn1",
        "conv",
        "backbone.blocks.0.0",
        "result",
    ]
    assert [list(each.input) for each in found.node[2:]] == [
        ["backbone.bn1"],
        ["conv", "backbone.bn1"],
        ["backbone.blocks.0.0"],
    ]
    assert [info.name for info in found.value_info] == ["backbone.bn1", "conv"]


def test_a_module_of_several_levels_is_counted_and_outputs_keep_their_names() -> None:
    predict, add = "network.model.class_net.predict", "network.model.class_net.add_rep.1"
    found = graph(
        node("Add", ["images", "images"], "a", add),
        node("Add", ["images", "images"], "b", add),
        node("Conv", ["a"], "class_3", predict),
        node("Conv", ["b"], "p4", predict),
        node("Cast", ["class_3"], "x", "network"),
        node("Cast", ["p4"], "class_4", "network"),
        outputs=("class_3", "class_4"),
    )
    name_inner_outputs(found)
    names = [each.output[0] for each in found.node]
    assert names[:4] == ["class_net.add_rep.1", "class_net.add_rep.1@1", "class_3", "class_net.predict@1"]
    assert names[4:] == ["x", "class_4"]
