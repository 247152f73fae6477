"""Model files: what was saved comes back, and everything else is refused with its reason."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from effdet_torch import load_model
from effdet_torch.errors import ModelFileError
from effdet_torch.network.model import EfficientDet
from effdet_torch.network.model_file import read_model_file
from support.coco_samples import small_model

BOTH = pytest.mark.parametrize("suffix", ["pth", "safetensors"])
State = dict[str, Tensor]


def write(path: Path, state: State, metadata: Any) -> Path:
    if path.suffix == ".safetensors":
        save_file(state, path, {"effdet_convert": json.dumps(metadata)})
    else:
        content = {"state_dict": state, "metadata": metadata}
        torch.save(content, path, _use_new_zipfile_serialization=path.suffix != ".old")
    return path


@pytest.fixture(scope="module")
def model() -> EfficientDet:
    return small_model()


@pytest.fixture(scope="module")
def metadata(model: EfficientDet) -> dict[str, Any]:
    source = {"kind": "TF1 checkpoint", "variables": 5, "ema": True, "x": None}
    return {"config": model.config.to_dict(), "source": source}


@pytest.mark.parametrize("suffix", ["pth", "safetensors", "old"])
def test_load_gives_back_model_config_and_metadata(
    tmp_path: Path, suffix: str, model: EfficientDet, metadata: dict[str, Any]
) -> None:
    path = write(tmp_path / f"model.{suffix}", model.state_dict(), metadata).rename(tmp_path / "model.bin")
    random_state = torch.get_rng_state()
    loaded = load_model(str(path))
    assert torch.equal(torch.get_rng_state(), random_state)  # no random initialisation took place
    path.write_bytes(bytes(path.stat().st_size))  # the model outlives its file
    assert not loaded.training
    assert loaded.config == model.config
    assert loaded.metadata == metadata
    assert all(parameter.requires_grad for parameter in loaded.parameters())
    assert loaded.state_dict().keys() == model.state_dict().keys()
    assert all(map(torch.equal, loaded.state_dict().values(), model.state_dict().values()))
    images = torch.randn(1, 3, 128, 128)
    with torch.no_grad():
        found, expected = loaded(images), model(images)
    assert all(map(torch.equal, found[0] + found[1], expected[0] + expected[1]))


@BOTH
def test_dtype_applies_to_floating_point_only_and_batch_counters_may_be_absent(
    model: EfficientDet, metadata: dict[str, Any], tmp_path: Path, suffix: str
) -> None:
    state = {key: value for key, value in model.state_dict().items() if not key.endswith("num_batches_tracked")}
    path = write(tmp_path / f"model.{suffix}", state, metadata)
    loaded = load_model(path, dtype=torch.float64, device=torch.device("cpu"))
    assert loaded.state_dict().keys() == model.state_dict().keys()
    assert {tensor.dtype for tensor in loaded.parameters()} == {torch.float64}
    assert {tensor.dtype for tensor in loaded.buffers()} == {torch.float64, torch.int64}


def test_missing_file_and_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"none\.pth: No such file"):
        load_model(tmp_path / "none.pth")
    with pytest.raises(ModelFileError, match=r"is a folder, not a model file\. Convert it"):
        load_model(tmp_path)


@pytest.mark.parametrize("content", [b"", b"x", b"\x89HDF\r\n\x1a\n rest", b"model { }", bytes(100)])
def test_other_files_are_not_model_files(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "file.pth").write_bytes(content)
    with pytest.raises(ModelFileError, match=r"is not a model file.*effdet-convert"):
        load_model(tmp_path / "file.pth")


def test_a_tensorflow_lite_file_must_be_converted_first(tmp_path: Path) -> None:
    (tmp_path / "file.tflite").write_bytes(b"\x1c\x00\x00\x00TFL3" + bytes(20))
    with pytest.raises(
        ModelFileError, match=r"a TensorFlow Lite file without the metadata of effdet-export: .* Convert it first"
    ):
        load_model(tmp_path / "file.tflite")


@BOTH
def test_truncated_and_damaged_files_are_refused(
    model: EfficientDet, metadata: dict[str, Any], suffix: str, tmp_path: Path
) -> None:
    path = write(tmp_path / f"model.{suffix}", model.state_dict(), metadata)
    content = path.read_bytes()
    for kept in (0.0002, 0.5, 0.99999):
        path.write_bytes(content[: int(len(content) * kept)])
        with pytest.raises(ModelFileError, match="truncated"):
            load_model(path)
    start = content.index(b"state_dict" if suffix == "pth" else b"{")
    path.write_bytes(content[: start - 8] + bytes(608) + content[start + 600 :])
    with pytest.raises(ModelFileError, match="damaged" if suffix == "pth" else "not a model file"):
        load_model(path)


class Payload:
    """What a hostile file holds: unpickling it would create a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[Path]]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("suffix", ["pth", "old"])
def test_foreign_objects_are_refused_and_not_run(tmp_path: Path, suffix: str) -> None:
    trace = tmp_path / "trace"
    path = write(tmp_path / f"hostile.{suffix}", {}, {"config": Payload(trace)})
    with pytest.raises(ModelFileError, match=r"refused to load .*could run any code"):
        load_model(path)
    assert not trace.exists()
    torch.load(path, weights_only=False)  # the payload does work
    assert trace.exists()


@BOTH
def test_files_of_other_tools_are_named_with_their_keys(model: EfficientDet, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"other.{suffix}"
    torch.save(model.state_dict(), path) if suffix == "pth" else save_file(model.state_dict(), path)
    with pytest.raises(
        ModelFileError, match=r"(another tool|not written by).*backbone\.\w+.*and \d+ more.*effdet-convert"
    ):
        load_model(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "found a list"),
        ({"state_dict": [], "metadata": {}}, "not a dictionary of tensors"),
        ({"state_dict": {"a": 1}, "metadata": {}}, "not a dictionary of tensors"),
        ({"state_dict": {1: torch.zeros(1)}, "metadata": {}}, "not a dictionary of tensors"),
    ],
)
def test_other_structures_are_refused(content: object, message: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "other.pth")
    with pytest.raises(ModelFileError, match=message):
        load_model(tmp_path / "other.pth")


@BOTH
@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({}, "has no model config"),
        ({"config": None}, "has no model config"),
        ([], "has no model config"),
        ({"config": {"fusion": "mean"}}, "does not fit"),
        ({"config": {"backbone": "efficientnet-b0"}}, "holds only the backbone efficientnet-b0: build a detector"),
    ],
)
def test_metadata_without_a_detectors_config_is_refused(
    metadata: object, message: str, suffix: str, tmp_path: Path
) -> None:
    with pytest.raises(ModelFileError, match=message):
        load_model(write(tmp_path / f"model.{suffix}", {"a": torch.zeros(1)}, metadata))


def test_configs_of_no_model_are_refused(model: EfficientDet, tmp_path: Path) -> None:
    for change, message in (
        ({"fusion": "mean"}, "fusion is 'mean'"),
        ({"image_size": [3, 512]}, r"image_size is \(3, 512\); expected"),
    ):
        config = model.config.to_dict() | change
        with pytest.raises(ModelFileError, match=rf"the model config in .*model\.pth does not fit: .*{message}"):
            load_model(write(tmp_path / "model.pth", model.state_dict(), {"config": config}))
    save_file({"a": torch.zeros(1)}, tmp_path / "model.safetensors", {"effdet_convert": "{"})
    with pytest.raises(ModelFileError, match="is not JSON"):
        read_model_file(tmp_path / "model.safetensors")


@BOTH
def test_all_misfits_are_listed_at_once(
    model: EfficientDet, metadata: dict[str, Any], suffix: str, tmp_path: Path
) -> None:
    state = dict(model.state_dict())
    del state["backbone.conv_stem.weight"]
    state["surplus"] = torch.zeros(1)
    state["class_net.predict.conv_pw.bias"] = torch.zeros(5)
    state["box_net.predict.conv_pw.bias"] = torch.zeros(36, dtype=torch.int64)
    with pytest.raises(ModelFileError) as caught:
        load_model(write(tmp_path / f"model.{suffix}", state, metadata))
    text = str(caught.value)
    assert "1 missing: backbone.conv_stem.weight; 1 unexpected: surplus; 2 mismatched: " in text
    assert "class_net.predict.conv_pw.bias is floating point (5,), expected floating point (18,)" in text
    assert "box_net.predict.conv_pw.bias is integer (36,)" in text
    with pytest.raises(ModelFileError, match=r"missing: .*, and \d+ more\. Convert") as caught:
        load_model(write(tmp_path / f"model.{suffix}", {}, metadata))
    assert len(str(caught.value)) < 700
