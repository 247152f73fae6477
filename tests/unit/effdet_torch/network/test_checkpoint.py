"""Model files: what was saved comes back, and everything else is refused with its reason."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from effdet_torch import create_model, load_model
from effdet_torch.errors import ModelFileError
from effdet_torch.network.checkpoint import read_model_file
from effdet_torch.network.model import EfficientDet

FORMATS = ("pth", "safetensors")
State = dict[str, Tensor]


def write(path: Path, state: State, metadata: Any) -> Path:
    if path.suffix == ".pth":
        torch.save({"state_dict": state, "metadata": metadata}, path)
    else:
        save_file(state, path, {"effdet_convert": json.dumps(metadata)})
    return path


@pytest.fixture(scope="module")
def model() -> EfficientDet:
    torch.manual_seed(0)
    model = create_model("lite0", num_classes=2, image_size=128, fpn_cells=1, head_repeats=1).eval()
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            torch.nn.init.normal_(buffer)
    return model


@pytest.fixture(scope="module")
def metadata(model: EfficientDet) -> dict[str, Any]:
    return {
        "config": model.config.to_dict(),
        "source": {"kind": "TF1 checkpoint", "variables": 5, "ema": True, "x": None},
    }


@pytest.fixture(scope="module")
def saved(model: EfficientDet, metadata: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    for suffix in FORMATS:
        write(folder / f"model.{suffix}", model.state_dict(), metadata)
    return folder


@pytest.mark.parametrize("suffix", FORMATS)
def test_load_gives_back_model_config_and_metadata(
    saved: Path, suffix: str, model: EfficientDet, metadata: dict[str, Any]
) -> None:
    random_state = torch.get_rng_state()
    loaded = load_model(str(saved / f"model.{suffix}"))
    assert torch.equal(torch.get_rng_state(), random_state)  # no random initialisation took place
    assert not loaded.training
    assert loaded.config == model.config
    assert loaded.metadata == metadata
    assert all(parameter.requires_grad for parameter in loaded.parameters())
    images = torch.randn(1, 3, 128, 128)
    with torch.no_grad():
        found, expected = loaded(images), model(images)
    assert all(map(torch.equal, found[0] + found[1], expected[0] + expected[1]))


@pytest.mark.parametrize("suffix", FORMATS)
def test_dtype_applies_to_floating_point_only(saved: Path, suffix: str) -> None:
    loaded = load_model(saved / f"model.{suffix}", dtype=torch.float64, device=torch.device("cpu"))
    assert {tensor.dtype for tensor in loaded.parameters()} == {torch.float64}
    assert {tensor.dtype for tensor in loaded.buffers()} == {torch.float64, torch.int64}


@pytest.mark.parametrize("suffix", FORMATS)
def test_loaded_model_outlives_its_file(saved: Path, suffix: str, model: EfficientDet, tmp_path: Path) -> None:
    path = Path(shutil.copy(saved / f"model.{suffix}", tmp_path))
    loaded = load_model(path)
    path.write_bytes(bytes(path.stat().st_size))
    assert all(map(torch.equal, loaded.state_dict().values(), model.state_dict().values()))


@pytest.mark.parametrize("suffix", FORMATS)
def test_format_is_recognised_by_content(saved: Path, suffix: str, tmp_path: Path, model: EfficientDet) -> None:
    path = Path(shutil.copy(saved / f"model.{suffix}", tmp_path / "model.bin"))
    assert read_model_file(path)[0].keys() == model.state_dict().keys()


@pytest.mark.parametrize("suffix", FORMATS)
def test_batch_counters_may_be_absent(
    model: EfficientDet, metadata: dict[str, Any], tmp_path: Path, suffix: str
) -> None:
    state = {key: value for key, value in model.state_dict().items() if not key.endswith("num_batches_tracked")}
    loaded = load_model(write(tmp_path / f"model.{suffix}", state, metadata))
    assert loaded.state_dict().keys() == model.state_dict().keys()


def test_old_torch_format_is_read(model: EfficientDet, metadata: dict[str, Any], tmp_path: Path) -> None:
    content = {"state_dict": model.state_dict(), "metadata": metadata}
    torch.save(content, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert load_model(tmp_path / "old.pth").config == model.config


def test_missing_file_and_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"none\.pth: No such file"):
        load_model(tmp_path / "none.pth")
    with pytest.raises(ModelFileError, match="Is a directory"):
        load_model(tmp_path)


@pytest.mark.parametrize("content", [b"", b"x", b"\x89HDF\r\n\x1a\n rest", b"model { }", bytes(100)])
def test_other_files_are_not_model_files(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "file.pth").write_bytes(content)
    with pytest.raises(ModelFileError, match=r"is not a model file.*effdet-convert"):
        load_model(tmp_path / "file.pth")


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("kept", [0.0002, 0.5, 0.99999])
def test_truncated_files_are_refused(saved: Path, suffix: str, kept: float, tmp_path: Path) -> None:
    content = (saved / f"model.{suffix}").read_bytes()
    (tmp_path / "part").write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(ModelFileError, match="truncated"):
        load_model(tmp_path / "part")


def test_damaged_pickle_is_refused(saved: Path, tmp_path: Path) -> None:
    content = bytearray((saved / "model.pth").read_bytes())
    start = content.index(b"state_dict")
    content[start - 8 : start + 600] = bytes(608)
    (tmp_path / "damaged.pth").write_bytes(content)
    with pytest.raises(ModelFileError, match="damaged"):
        load_model(tmp_path / "damaged.pth")


class Payload:
    """What a hostile file holds: unpickling it would create a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[Path]]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("new_format", [True, False])
def test_foreign_objects_are_refused_and_not_run(tmp_path: Path, new_format: bool) -> None:
    path, trace = tmp_path / "hostile.pth", tmp_path / "trace"
    content = {"state_dict": {}, "metadata": {"config": Payload(trace)}}
    torch.save(content, path, _use_new_zipfile_serialization=new_format)
    with pytest.raises(ModelFileError, match=r"refused to load .*could run any code"):
        load_model(path)
    assert not trace.exists()
    torch.load(path, weights_only=False)  # the payload does work
    assert trace.exists()


@pytest.mark.parametrize("suffix", FORMATS)
def test_files_of_other_tools_are_named_with_their_keys(model: EfficientDet, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"other.{suffix}"
    torch.save(model.state_dict(), path) if suffix == "pth" else save_file(model.state_dict(), path)
    with pytest.raises(ModelFileError, match=r"another tool.*backbone\.\w+.*and \d+ more.*effdet-convert"):
        load_model(path)


@pytest.mark.parametrize(
    "content",
    [
        [1, 2],
        {"state_dict": [], "metadata": {}},
        {"state_dict": {"a": 1}, "metadata": {}},
        {"state_dict": {1: torch.zeros(1)}, "metadata": {}},
    ],
)
def test_other_structures_are_refused(content: object, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "other.pth")
    with pytest.raises(ModelFileError, match=r"found a list|not a dictionary of tensors"):
        load_model(tmp_path / "other.pth")


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("metadata", [{}, {"config": None}, [], "text"])
def test_metadata_without_config_is_refused(metadata: object, suffix: str, tmp_path: Path) -> None:
    path = write(tmp_path / f"model.{suffix}", {"a": torch.zeros(1)}, metadata)
    with pytest.raises(ModelFileError, match="has no model config"):
        load_model(path)


def test_metadata_that_is_not_json_is_refused(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "model.safetensors", {"effdet_convert": "{"})
    with pytest.raises(ModelFileError, match="is not JSON"):
        load_model(tmp_path / "model.safetensors")


def test_unknown_config_is_refused(model: EfficientDet, tmp_path: Path) -> None:
    metadata = {"config": model.config.to_dict() | {"fusion": "mean"}}
    with pytest.raises(ModelFileError, match="fusion is 'mean'"):
        load_model(write(tmp_path / "model.pth", model.state_dict(), metadata))


@pytest.mark.parametrize("suffix", FORMATS)
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


def test_many_misfits_are_shortened(model: EfficientDet, metadata: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"missing: .*, and \d+ more\. Convert") as caught:
        load_model(write(tmp_path / "model.pth", {}, metadata))
    assert len(str(caught.value)) < 700
