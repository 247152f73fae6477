"""What graphs show, on graphs of a few nodes: names and inputs that mislead, damage, and which sources have a graph."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import support.tiny_bundle as tiny
from converter.errors import CorruptFileError
from converter.locate import open_checkpoint
from converter.readers.tensorflow.graphs.anchor_constant import explain_anchors
from converter.readers.tensorflow.graphs.evidence import graph_of, read_evidence
from converter.readers.tensorflow.graphs.nodes import GRAPH_DEF, META_GRAPH_DEF, SAVED_MODEL
from converter.source import GraphEvidence
from effdet_torch.config import get_config
from effdet_torch.geometry.anchors import make_anchors_yxyx
from support.tiny_protos import graph_def, tensor
from support.tiny_protos import node as constant_node


def body(name: str, operation: str, inputs: Sequence[str] = (), attributes: bytes = b"") -> bytes:
    """A NodeDef."""
    return (
        tiny.nested(1, name.encode())
        + tiny.nested(2, operation.encode())
        + b"".join(tiny.nested(3, item.encode()) for item in inputs)
        + attributes
    )


def shape_attribute(name: str, *sizes: int) -> bytes:
    shape = b"".join(tiny.nested(2, tiny.number(1, size)) for size in sizes)
    return tiny.nested(5, tiny.nested(1, name.encode()) + tiny.nested(2, tiny.nested(7, shape)))


def evidence(*nodes: bytes) -> GraphEvidence:
    return read_evidence(memoryview(b"".join(tiny.nested(1, node) for node in nodes)), GRAPH_DEF, "graph")


def function(name: str, arguments: Sequence[tuple[str, Sequence[int]]], *nodes: bytes) -> bytes:
    """A FunctionDef."""
    listed = [b"".join(tiny.nested(2, tiny.number(1, size)) for size in sizes) for _, sizes in arguments]
    shapes = tiny.nested(1, b"".join(tiny.nested(7, shape) for shape in listed))
    signature = tiny.nested(1, name.encode())
    signature += b"".join(tiny.nested(2, tiny.nested(1, argument.encode())) for argument, _ in arguments)
    attribute = tiny.nested(1, b"_input_shapes") + tiny.nested(2, shapes)
    return tiny.nested(1, signature) + b"".join(tiny.nested(3, node) for node in nodes) + tiny.nested(5, attribute)


STEM = [body("b/stem/conv2d/Conv2D", "Conv2D", ["images"]), body("b/stem/Relu", "Relu", ["b/stem/conv2d/Conv2D"])]


@pytest.mark.parametrize(
    ("operations", "expected"),
    [
        (["Relu"], "relu"),
        (["Relu", "Identity", "Const"], "relu"),
        (["swish_f32"], "swish"),
        (["Swish"], None),
        (["Sigmoid", "Mul"], "swish"),
        (["Sigmoid"], None),
        (["Softplus", "Tanh", "Mul"], "mish"),
        (["AddV2", "Relu6", "Mul", "RealDiv"], "hswish"),
        (["AddV2", "Relu6", "Mul"], None),
        (["Relu", "Relu6"], None),
        (["Gelu"], None),
    ],
)
def test_an_activation_needs_all_of_its_operations_and_no_other(operations: list[str], expected: str | None) -> None:
    found = evidence(*(body(f"b/stem/op_{place}", operation) for place, operation in enumerate(operations)))
    assert found.hparams.get("act_type") == expected
    assert len(found.notes) == (expected is None)


@pytest.mark.parametrize(
    "name",
    [
        "gradients/b/stem/Relu_grad/Sigmoid",
        "gradient_tape/b/stem/Relu",
        "Momentum/update_b/stem/srelu/srelu_beta",
        "system/Relu",
        "stem",
        "b/stem/bn/Relu",
    ],
)
def test_names_of_other_things(name: str) -> None:
    assert evidence(body(name, "Relu")).hparams == {}


def test_a_layer_that_is_called_is_read_in_its_function() -> None:
    assert evidence(body("b/stem/StatefulPartitionedCall", "StatefulPartitionedCall")).notes == ()


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ((1, 320, 512, 3), "512x320"),
        ((-1, 3, 512, 512), 512),
        ((1, -1, 512, 3), None),
        ((1, 512, 512, 1), None),
        ((1, 3, 512, 3), None),
        ((512, 512, 3), None),
        ((), None),
    ],
)
def test_size_of_the_placeholder(shape: tuple[int, ...], size: Any) -> None:
    placeholder = body("images", "Placeholder", (), shape_attribute("shape", *shape))
    passed = [body("cast", "Cast", ["images"]), body("turn", "Transpose", ["cast", "perm"])]
    stem = body("b/stem/conv2d/Conv2D", "Conv2D", ["turn:0", "kernel"])
    assert evidence(placeholder, *passed, stem).hparams.get("image_size") == size
    resized = body("cast", "ResizeBilinear", ["images"])
    assert "image_size" not in evidence(placeholder, resized, passed[1], stem).hparams


def test_functions_of_every_graph() -> None:
    """A SavedModel may have two graphs; a function's input has its shape among the function's attributes."""
    library = tiny.nested(2, tiny.nested(1, function("serve", [("images", (1, 64, 64, 3)), ("kernel", ())], *STEM)))
    saved = tiny.nested(2, tiny.nested(2, b"")) + tiny.nested(2, tiny.nested(2, library)) + tiny.number(1, 1)
    found = read_evidence(memoryview(saved), SAVED_MODEL, "graph (saved_model.pb)")
    assert found.hparams == {"act_type": "relu", "image_size": 64}
    assert found.nodes == {"act_type": "b/stem/Relu", "image_size": "images"}
    other = function("train", [], body("b/stem/Relu6", "Relu6"))
    both = tiny.nested(2, tiny.nested(2, library + tiny.nested(2, tiny.nested(1, other))))
    found = read_evidence(memoryview(both), SAVED_MODEL, "graph")
    assert found.hparams == {"image_size": 64}
    assert found.notes == ("graph: act_type is not clear: relu (b/stem/Relu) and relu6 (b/stem/Relu6)",)


def test_circles_end() -> None:
    """Loops of TF1 are circles; identities in a circle mean nothing."""
    nodes = [body("i", "Identity", ["j"]), body("j", "Identity", ["i"]), body("b/stem/conv2d/Conv2D", "Conv2D", ["i"])]
    nodes += [body("t", "Transpose", ["t"]), body("c/stem/conv2d/Conv2D", "Conv2D", ["t"])]
    nodes += [body("class_net/class-1/Conv2D", "Conv2D", ["class_net/a"])]
    nodes += [body("class_net/a", "Add", ["class_net/b", "class_net/a"]), body("class_net/b", "Mul", ["class_net/a"])]
    assert evidence(*nodes).hparams == {"separable_conv": False}


def test_a_weight_of_unknown_shape_leaves_the_method_open() -> None:
    scope = "fpn_cells/cell_0/fnode0"
    fast = [body(f"{scope}/{name}", name) for name in ("Relu", "RealDiv", "Mul", "AddV2")]
    assert evidence(*fast).hparams == {}
    for shape, method in (((), "fastattn"), ((64,), "channel_fastattn")):
        weight = body(f"{scope}/WSM", "VarHandleOp", (), shape_attribute("shape", *shape))
        assert evidence(*fast, weight).hparams == {"fpn_weight_method": method}


@pytest.mark.parametrize(
    ("operations", "expected"),
    [
        (["AddN"], "sum"),  # as the first official code writes it
        (["Add"], "sum"),
        (["Relu", "AddN", "AddV2", "Mul", "RealDiv"], "fastattn"),
        (["Pack", "Softmax", "Mul", "Sum"], "attn"),
        (["Softmax", "Relu", "Mul", "Sum"], None),
        (["Relu", "AddV2", "Mul"], None),
        (["AddV2", "Mul"], None),
        (["Maximum"], None),
    ],
)
def test_a_fusion_needs_all_of_its_operations_and_no_other(operations: list[str], expected: str | None) -> None:
    scope = "fpn_cells/cell_1/fnode3"
    weight = body(f"{scope}/WSM", "VarHandleOp", (), shape_attribute("shape"))
    others = [f"{scope}/op_after_combine8/Relu6", f"{scope}/WSM/Initializer/ones", f"{scope}/resample_0_0_8/MaxPool"]
    nodes = [body(f"{scope}/op_{place}", operation) for place, operation in enumerate(operations)]
    found = evidence(weight, *nodes, *(body(name, name.rsplit("/")[-1]) for name in others))
    assert found.hparams.get("fpn_weight_method") == expected
    assert len(found.notes) == (expected is None)


# Anchors.

CONFIGS = [
    {},
    {"image_size": (1280, 1280)},
    {"image_size": (384, 640), "anchor_scale": 3.0},
    {"image_size": (320, 320), "num_scales": 2, "aspect_ratios": (1.0, 0.3333, 3.0, 0.5)},
    {"image_size": (131, 257), "max_level": 5},
]


@pytest.mark.parametrize("changes", CONFIGS)
def test_anchors_are_traced_back(changes: dict[str, Any]) -> None:
    config = get_config("d0", **{"image_size": (512, 512), **changes})
    height, width = config.image_size
    anchors = make_anchors_yxyx(config).numpy()
    found = explain_anchors(anchors)
    assert found == {
        "anchor_scale": config.anchor_scale,
        "aspect_ratios": list(config.aspect_ratios),
        "num_scales": config.num_scales,
        "image_size": height if height == width else f"{width}x{height}",
    }
    in_graph = memoryview(graph_def({"anchors": anchors, "other": np.zeros((2000, 4), np.float32)}))
    assert read_evidence(in_graph, GRAPH_DEF, "graph").hparams == found


def test_a_scale_for_every_level() -> None:
    levels = [get_config("d0", image_size=(128, 128), anchor_scale=scale) for scale in (4.0, 3.5)]
    anchors = [make_anchors_yxyx(config).numpy() for config in levels]
    first = 16 * 16 * 9
    found = explain_anchors(np.concatenate([anchors[0][:first], anchors[1][first:]]))
    assert found is not None
    assert found["anchor_scale"] == [4.0, 3.5, 3.5, 3.5, 3.5]


@pytest.mark.parametrize("row", [0, 1, 5000, -1])
@pytest.mark.parametrize("change", [0.02, np.nan, -1e30])
def test_other_boxes_are_not_anchors(row: int, change: float) -> None:
    anchors = make_anchors_yxyx(get_config("d0", image_size=(256, 256))).numpy().copy()
    anchors[row, 2] += change
    assert explain_anchors(anchors) is None


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(st.floats(width=32), min_size=4, max_size=4), max_size=40))
def test_any_numbers(rows: list[list[float]]) -> None:
    explain_anchors(np.array(rows, np.float32).reshape(-1, 4))


# Files.


@pytest.mark.parametrize("content", [b"\x0a\x05abc", b"<html>404 not found</html>", b""])
def test_a_damaged_file_shows_nothing(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.meta"
    path.write_bytes(content)
    found = graph_of(path, META_GRAPH_DEF)()
    assert found.hparams == {}
    assert all("graph (model.meta) cannot be read (" in note for note in found.notes)
    assert len(found.notes) == (content != b"")


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_damage_is_an_error_or_evidence(data: st.DataObject) -> None:
    library = tiny.nested(2, tiny.nested(1, function("serve", [("images", (1, 64, 64, 3))], *STEM)))
    whole = bytearray(tiny.nested(2, b"".join(tiny.nested(1, node) for node in STEM) + library))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = read_evidence(memoryview(bytes(whole)), META_GRAPH_DEF, "graph")
    except CorruptFileError:
        return
    assert found.hparams.keys() <= {"act_type", "image_size"}


PARTS = ["class_net", "class-1", "class-0-bn-3", "class-predict", "fpn_cells", "cell_0", "fnode0", "WSM", "resample_p6"]
PARTS += ["op_after_combine1", "op_after_combine5", "resample_0_0_1", "conv", "bn", "b", "stem", "conv2d", "srelu", "x"]
OPERATIONS = ["Conv2D", "DepthwiseConv2dNative", "MaxPool", "Identity", "IdentityN", "Transpose", "Add", "Mul", "Relu"]
OPERATIONS += ["Const", "Placeholder", "IteratorGetNext", "VarHandleOp"]
NAMES = st.lists(st.sampled_from(PARTS), min_size=1, max_size=6).map("/".join)


@settings(max_examples=500, deadline=None)
@given(data=st.data(), names=st.lists(NAMES, min_size=1, max_size=12))
def test_any_graph_of_these_names_is_read(data: st.DataObject, names: list[str]) -> None:
    references = st.sampled_from([*names, *(f"{name}:1" for name in names), "^x", "", ":", "x:y:7"])
    nodes = [
        body(name, data.draw(st.sampled_from(OPERATIONS)), data.draw(st.lists(references, max_size=3)))
        for name in names
    ]
    evidence(*nodes)


def test_a_large_graph_is_read_fast() -> None:
    """A long chain, and a fusion of very many: no recursion, no time that grows with the square."""
    scope = "fpn_cells/cell_0/fnode0"
    chain = [
        body(f"class_net/op_{k}", "Mul", [f"class_net/op_{k - 1}", f"class_net/op_{k - 1}"]) for k in range(20_000)
    ]
    sums = [body(f"{scope}/add_{k}", "AddV2", [f"{scope}/add_{k - 1}", f"{scope}/add_{k - 1}"]) for k in range(20_000)]
    ends = [body(f"class_net/class-1_{k}/Conv2D", "Conv2D", [f"class_net/op_{19_999 - k}"]) for k in range(200)]
    started = time.process_time()
    assert evidence(*chain, *sums, *ends).hparams["fpn_weight_method"] == "sum"
    assert time.process_time() - started < 5


def test_which_sources_have_a_graph(tmp_path: Path) -> None:
    gamma = np.ones(2, np.float32)
    prefix = tiny.write_bundle(tmp_path / "model", {"x/bn/gamma": gamma})
    with open_checkpoint(prefix) as source:
        assert source.facts.graph is None
    graph = b"".join(tiny.nested(1, node) for node in STEM)
    Path(f"{prefix}.meta").write_bytes(tiny.nested(2, graph))
    saved = tmp_path / "saved"
    tiny.write_bundle(saved / "variables" / "variables", {"x/bn/gamma": gamma})
    (saved / "saved_model.pb").write_bytes(tiny.nested(2, tiny.nested(2, graph)))
    frozen = tmp_path / "d0_frozen.pb"
    frozen.write_bytes(graph + constant_node("x/bn/gamma", "Const", tensor(gamma)))
    for path, origin in ((prefix, "model.meta"), (saved, "saved_model.pb"), (frozen, "d0_frozen.pb")):
        with open_checkpoint(path) as source:
            assert source.facts.graph is not None
            found = source.facts.graph()
        assert (found.origin, found.hparams) == (f"graph ({origin})", {"act_type": "relu"})
