"""Frozen graphs: constants as variables, in every layout of values, and graphs that cannot be converted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import support.tiny_bundle as tiny
from converter.conversion import prepare
from converter.errors import CorruptFileError, UnsupportedSourceError, ViewError
from converter.locate import open_checkpoint
from converter.source import OPTIMIZER_STATE, OTHER_COPY, STEP_COUNT, VariableInfo, VariableSource
from support.sources import plan_of, seeded, small_config
from support.tiny_protos import graph_def, node, tensor

GAMMA = {"x/bn/gamma": np.ones(2, np.float32)}
FLOAT, QINT8, HALF = 1, 11, 19


def frozen(folder: Path, *nodes: bytes, constants: dict[str, Any] | None = None) -> VariableSource:
    path = folder / "d0_frozen.pb"
    path.write_bytes(graph_def(GAMMA if constants is None else constants, *nodes) + tiny.nested(4, b"\x08\x01"))
    return open_checkpoint(path)


def test_a_whole_network(tmp_path: Path) -> None:
    variables = seeded(plan_of(small_config()))
    others = [
        node("strided_slice/stack", "Const", tensor(np.zeros(2, np.int32))),
        node("x/bn/FusedBatchNormV3", "FusedBatchNormV3"),
        node("efficientnet-b0/stem/beta", "Const", tensor(np.ones((), np.float32))),  # of TensorFlow's silu
    ]
    with frozen(tmp_path, *others, constants=variables) as source:
        path = tmp_path / "d0_frozen.pb"
        assert (source.kind, source.path, source.facts.folder, source.files()) == (
            "frozen graph",
            path,
            tmp_path,
            (path,),
        )
        assert source.facts.unrecoverable == (OTHER_COPY, OPTIMIZER_STATE, STEP_COUNT)
        assert source.checksum("box_net/box-0/bias") is None
        assert source.variables.keys() == variables.keys()
        prepared = prepare(source)
        assert prepared.view.name == "raw"
        assert "the one that it computes with" in prepared.view.reason
        with pytest.raises(ViewError, match=r"no averages \(EMA\)"):
            prepare(source, weights="ema")


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int64"])
@pytest.mark.parametrize("shape", [(), (3,), (3, 1, 2)])
def test_values_as_bytes(tmp_path: Path, dtype: str, shape: tuple[int, ...]) -> None:
    value = (np.arange(np.prod(shape)) - 1).reshape(shape).astype(dtype)
    source = frozen(tmp_path, node("x/WSM", "Const", tensor(value)))
    assert source.variables["x/WSM"] == VariableInfo(dtype, shape)
    assert (source.read("x/WSM").dtype, source.read("x/WSM").tobytes()) == (value.dtype, value.tobytes())


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("listed", "shape", "expected"),
    [
        ([2.5], (), [2.5]),
        ([1, 2, 3], (3,), [1, 2, 3]),
        ([1, 2], (2, 2), [1, 2, 2, 2]),  # the last one stands for the rest
        ([7], (2, 3), [7] * 6),
        ([], (2,), [0, 0]),
        ([], (0, 4), []),
    ],
)
def test_values_as_lists(
    tmp_path: Path, dtype: str, listed: list[float], shape: tuple[int, ...], expected: list[float]
) -> None:
    value = node("x/WSM", "Const", tensor(np.empty(shape, dtype), listed=listed))
    found = frozen(tmp_path, value).read("x/WSM")
    assert (found.dtype.name, found.shape, found.ravel().tolist()) == (dtype, shape, expected)


def test_names_of_a_second_model(tmp_path: Path) -> None:
    source = frozen(tmp_path, constants={**GAMMA, "b/stem_1/conv2d_1/kernel": np.ones((1, 1, 1, 1), np.float32)})
    assert set(source.variables) == {"x/bn/gamma", "b/stem/conv2d/kernel"}


SHAPE_4 = tiny.nested(2, tiny.nested(2, tiny.number(1, 4)))
HUGE = tensor(np.broadcast_to(np.float32(0), 1 << 40), listed=[1])
TOO_MANY = tensor(np.empty(2, np.float32), listed=[1, 2, 3])


@pytest.mark.parametrize(
    ("proto", "error", "words"),
    [
        (
            tiny.number(1, FLOAT) + tiny.nested(4, bytes(8)),
            CorruptFileError,
            r"it has 8 bytes; float32 of \(\) needs 4",
        ),
        (TOO_MANY, CorruptFileError, r"it has 3 values; its shape \(2,\) has 2"),
        (tiny.number(1, FLOAT) + tiny.nested(5, b"abc"), CorruptFileError, "3 bytes of values"),
        (HUGE, CorruptFileError, "4 bytes of values"),
        (
            tiny.number(1, HALF) + SHAPE_4 + tiny.nested(13, b"\x00"),
            UnsupportedSourceError,
            "listed values of dtype fl",
        ),
        (tensor(np.ones(2, np.uint8), dtype=QINT8), UnsupportedSourceError, "dtype qint8"),
    ],
)
def test_values_that_cannot_be_read(tmp_path: Path, proto: bytes, error: type[Exception], words: str) -> None:
    source = frozen(tmp_path, node("x/WSM", "Const", proto))
    assert source.read("x/bn/gamma").tolist() == [1, 1]
    with pytest.raises(error, match=rf"d0_frozen\.pb: x/WSM: .*{words}"):
        source.read("x/WSM")


@pytest.mark.parametrize(
    ("nodes", "words"),
    [
        ([node("x/WSM", "Const")], "the constant 'x/WSM' has no value"),
        ([node("x/WSM", "Const", b"")], "x/WSM: its dtype has the invalid number 0"),
        ([node("x/WSM", "Const", tensor(1.5)), node("x/WSM", "Const", tensor(2.5))], "two constants are called"),
        ([b"\x0a\x05abc"], "needs 5 bytes and"),
    ],
)
def test_damaged_graphs(tmp_path: Path, nodes: list[bytes], words: str) -> None:
    path = tmp_path / "d0_frozen.pb"
    path.write_bytes(graph_def(GAMMA, *nodes))
    with pytest.raises(CorruptFileError, match=rf"d0_frozen\.pb: this is a frozen graph, but damaged.*: .*{words}"):
        open_checkpoint(path)


KERNEL = {"x/conv2d/kernel": np.ones((1, 1, 1, 1), np.float32)}


@pytest.mark.parametrize(
    ("constants", "nodes", "words"),
    [
        (GAMMA, [node("q", "FakeQuantWithMinMaxVars")], r"a quantised graph \(operation FakeQuantWithMinMaxVars\)"),
        (GAMMA, [node("q", "QuantizedConv2D")], "a quantised graph"),
        (KERNEL, [], "without batch norms: they are folded"),
        ({"x/Conv2D/ReadVariableOp/resource": np.float32(1)}, [], "frozen by TF2"),
        ({"Reshape/shape": np.int32(1)}, [], "without constants named like variables"),
        ({}, [node("input", "Placeholder")], "without constants"),
    ],
)
def test_graphs_without_the_original_variables(
    tmp_path: Path, constants: dict[str, Any], nodes: list[bytes], words: str
) -> None:
    with pytest.raises(UnsupportedSourceError, match=rf"d0_frozen\.pb: this is .*{words}.*Pass the checkpoint"):
        frozen(tmp_path, *nodes, constants=constants)


def test_a_batch_norm_makes_a_graph_convertible(tmp_path: Path) -> None:
    """Negative control of the fold: the same convolution beside a batch norm."""
    assert set(frozen(tmp_path, constants={**KERNEL, **GAMMA}).variables) == {"x/conv2d/kernel", "x/bn/gamma"}
