"""`.onnx` files from strangers, and what is said about them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from effdet_torch.config import get_config
from effdet_torch.engines.document import Interface, make_document
from effdet_torch.engines.runtimes.onnx_runtime import OnnxRuntimeEngine, read_onnx
from effdet_torch.errors import EffdetError, ModelFileError
from effdet_torch.file_format import METADATA_KEY

DOCUMENT = make_document(get_config("d0", image_size=(32, 32)), Interface(image_size=(32, 32)), {}, {}).to_json()
NAMES = [f"{head}_{level}" for head in ("class", "box") for level in range(3, 8)]


def write(path: Path, outputs: list[str] = NAMES, document: str | None = DOCUMENT, name: str = "images") -> Path:
    """Write a graph that returns its input, times 2, under several names."""
    shape = [1, 3, 32, 32]
    nodes = [helper.make_node("Mul", [name, "two"], [output]) for output in outputs]
    values = [helper.make_tensor_value_info(output, TensorProto.FLOAT, shape) for output in outputs]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)],
        values,
        [numpy_helper.from_array(np.float32([2]), "two")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    if document is not None:
        model.metadata_props.add(key=METADATA_KEY, value=document)
    onnx.save(model, path)
    return path


def test_a_file_of_ours_runs(tmp_path: Path) -> None:
    pixels = np.ones((2, 3, 32, 32), np.float32)
    outputs = OnnxRuntimeEngine(write(tmp_path / "a.onnx")).run(pixels)
    assert len(outputs) == 10
    assert all(np.array_equal(output, 2 * pixels) for output in outputs)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"document": None}, "was not written by effdet-export"),
        ({"outputs": NAMES[1:]}, "the outputs of .* are class_4"),
        ({"name": "input"}, "the inputs of .* are input; expected images"),
    ],
)
def test_another_tool_s_file_is_refused(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ModelFileError, match=said):
        OnnxRuntimeEngine(write(tmp_path / "a.onnx", **changes))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 something else", b"\x08\x0a" * 50])
def test_damaged_files_are_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelFileError) as caught:
        OnnxRuntimeEngine(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_cut_short_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.onnx")
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ModelFileError, match=r"a\.onnx"):
        OnnxRuntimeEngine(path)


def test_missing_and_special_files_are_refused(tmp_path: Path) -> None:
    for path, said in (
        (tmp_path / "none.onnx", "No such file"),
        (tmp_path, "directory"),
        (Path("/dev/null"), "device"),
    ):
        with pytest.raises(ModelFileError, match=said):
            read_onnx(path)


def external(path: Path) -> onnx.ModelProto:
    """Return a graph whose one weight is in another file, of 4 bytes that hold 2."""
    model = onnx.load(write(path))
    weight = model.graph.initializer[0]
    (path.parent / "weights").write_bytes(weight.raw_data)
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="weights")
    return model


def test_weights_in_other_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.onnx"
    path.write_bytes(external(path).SerializeToString())
    monkeypatch.chdir(tmp_path)  # where ONNX Runtime would look
    with pytest.raises(ModelFileError, match=r"refused to load .*a\.onnx: its weights are in other files"):
        OnnxRuntimeEngine(path)


def test_no_way_to_write_the_same_entry_passes(tmp_path: Path) -> None:
    """Protobuf allows longer forms of a length; a text that only contains the word is none of an entry."""
    path = tmp_path / "a.onnx"
    content = external(path).SerializeToString()
    for length in (b"\x08", b"\x88\x00", b"\x88\x80\x80\x00"):
        path.write_bytes(content.replace(b"\x08location", length + b"location"))
        with pytest.raises(ModelFileError, match="external data"):
            read_onnx(path)
    read_onnx(write(path, document=DOCUMENT.replace("d0", "location of d0")))


def test_a_missing_runtime_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(EffdetError, match=r"needs onnxruntime, .* pip install '\.\[onnx\]'"):
        OnnxRuntimeEngine(write(tmp_path / "a.onnx"))
