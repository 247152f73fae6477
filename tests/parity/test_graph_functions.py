"""Functions of a graph, replaced by their nodes: the flat graph computes what the functions compute."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from verify.reference.graph_functions import FlatNodes, graph_tensor

tf = pytest.importorskip("tensorflow")


@tf.function  # type: ignore[untyped-decorator]
def inner(x: Any, y: Any) -> Any:
    """Two results, one of them the second half of an operation with many outputs."""
    _, second = tf.split(x, 2, axis=1)
    values, _ = tf.nn.top_k(x, 2)
    return second * y, tf.nn.silu(values)


@tf.function(input_signature=[tf.TensorSpec((3, 4))])  # type: ignore[untyped-decorator]
def outer(x: Any) -> Any:
    first, second = inner(x, tf.constant(2.0))
    third, _ = inner(tf.concat([first, second], 1), tf.constant(3.0))
    return third - second


def graph_of_outer() -> Any:
    return outer.get_concrete_function().graph.as_graph_def()


def test_a_flat_graph_computes_the_same() -> None:
    graph_def, function = graph_of_outer(), outer.get_concrete_function()
    assert {"PartitionedCall", "StatefulPartitionedCall"} & {node.op for node in graph_def.node}
    flat = FlatNodes(tf, graph_def)
    assert not {"PartitionedCall", "StatefulPartitionedCall"} & {node.op for node in flat.nodes.values()}
    x = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    with tf.Graph().as_default() as graph:
        tf.import_graph_def(tf.compat.v1.GraphDef(node=flat.nodes.values(), versions=graph_def.versions), name="")
        with tf.compat.v1.Session(graph=graph) as session:
            result = flat.resolve(graph_tensor(function.structured_outputs.name))
            found = session.run(result, {f"{function.inputs[0].op.name}:0": x})
    np.testing.assert_allclose(found, outer(x), rtol=1e-6)


def test_the_stored_graph_is_not_changed() -> None:
    graph_def = graph_of_outer()
    before = graph_def.SerializeToString(deterministic=True)
    FlatNodes(tf, graph_def)
    assert graph_def.SerializeToString(deterministic=True) == before


def calls_itself(graph_def: Any) -> None:
    function = graph_def.library.function[0]
    node = function.node_def.add(name="again", op=function.signature.name)
    node.input.extend(arg.name for arg in function.signature.input_arg)


def lacks_a_result(graph_def: Any) -> None:
    function = graph_def.library.function[0]
    function.ret[function.signature.output_arg[0].name] = "nowhere:y:0"


def names_an_output_that_an_operation_lacks(graph_def: Any) -> None:
    function = graph_def.library.function[0]
    node = function.node_def[0]
    function.ret[function.signature.output_arg[0].name] = f"{node.name}:nothing:0"


def is_called_with_too_little(graph_def: Any) -> None:
    del next(node for node in graph_def.node if "PartitionedCall" in node.op).input[1:]


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        (calls_itself, ValueError, "call each other without end"),
        (lacks_a_result, KeyError, "nowhere"),
        (names_an_output_that_an_operation_lacks, KeyError, "nothing"),
        (is_called_with_too_little, ValueError, "shorter"),
    ],
)
def test_damaged_functions(damage: Any, error: type[Exception], message: str) -> None:
    graph_def = graph_of_outer()
    damage(graph_def)
    with pytest.raises(error, match=message):
        FlatNodes(tf, graph_def)


def test_functions_that_multiply_end() -> None:
    """Thirty functions that call the next one twice would be a billion calls."""
    graph_def = tf.compat.v1.GraphDef()
    for number in range(30):
        function = graph_def.library.function.add()
        function.signature.name = f"f{number}"
        for twice in "ab":
            function.node_def.add(name=twice, op=f"f{number + 1}")
    graph_def.node.add(name="start", op="f0")
    with pytest.raises(ValueError, match="call each other without end"):
        FlatNodes(tf, graph_def)
