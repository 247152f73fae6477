"""PyTorch files read without PyTorch: what torch.save wrote, bit for bit, and nothing is executed."""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from converter.errors import UnsupportedSourceError
from converter.formats.pickled import Call, Name
from converter.readers.pytorch.stored_tensor import Storage, StoredTensor
from converter.readers.pytorch.torch_file import read_torch_file

BOTH = pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "legacy"])
BASE = torch.arange(24, dtype=torch.float32).reshape(2, 3, 4)
READABLE = ("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "uint16", "bool")


def noted(tensor: torch.Tensor) -> torch.Tensor:
    tensor.note = "an attribute, which changes how the tensor is saved"
    return tensor


TENSORS: dict[str, torch.Tensor] = {
    **{name: torch.tensor([[1, 0, 3], [4, 5, 100]]).to(getattr(torch, name)) for name in READABLE},
    "negative": torch.tensor([-4, -1]),
    "special": torch.tensor([np.nan, np.inf, -np.inf, -0.0, 1e-45]),
    "special bfloat16": torch.tensor([np.nan, np.inf, -0.0, 1e-40, 3.1415]).bfloat16(),
    "scalar": torch.tensor(2.5),
    "scalar bfloat16": torch.tensor(2.5).bfloat16(),
    "empty": torch.zeros(0, 3),
    "empty integers": torch.zeros(2, 0, dtype=torch.int64),
    "empty bfloat16": torch.zeros(0).bfloat16(),
    "whole": BASE,
    "permuted": BASE.permute(2, 0, 1),
    "row": BASE[1],
    "columns": BASE[:, 1:, 1::2],
    "one value": BASE[1, 2, 3],
    "diagonal": BASE[0].diagonal(),
    "overlapping": BASE.as_strided((2, 2), (2, 1)),
    "channels_last": torch.randn(2, 3, 4, 5).contiguous(memory_format=torch.channels_last),
    "parameter": torch.nn.Parameter(torch.randn(3)),
    "noted parameter": noted(torch.nn.Parameter(torch.ones(2))),
    "noted tensor": noted(torch.ones(3)),
    "one of one": torch.zeros(1, 5)[:, :1],
}


def saved(path: Path, content: Any, is_zip: bool = True, protocol: int = 2) -> Path:
    with warnings.catch_warnings():  # typed storages, which quantized tensors have, are deprecated
        warnings.simplefilter("ignore")
        torch.save(content, path, pickle_protocol=protocol, _use_new_zipfile_serialization=is_zip)
    return path


def same(found: StoredTensor, expected: torch.Tensor) -> bool:
    """Bit for bit, including NaN and the sign of zero."""
    wanted = (expected.float() if expected.dtype == torch.bfloat16 else expected).detach().numpy()
    array = found.array()
    assert (array.dtype, array.shape, f"torch.{found.dtype}") == (wanted.dtype, wanted.shape, str(expected.dtype))
    return array.tobytes() == wanted.tobytes()


@BOTH
@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_tensors_as_they_were_saved(tmp_path: Path, is_zip: bool, protocol: int) -> None:
    found = read_torch_file(saved(tmp_path / "a.pth", TENSORS, is_zip, protocol))
    assert list(found) == list(TENSORS)
    assert [name for name, tensor in TENSORS.items() if not same(found[name], tensor)] == []
    assert not same(found["whole"], BASE.flip(0))  # the comparison can fail
    assert found["row"].storage is found["permuted"].storage
    assert found["permuted"].array().base is not None  # a view of the file
    assert not found["whole"].array().flags.writeable


@BOTH
def test_a_training_checkpoint(tmp_path: Path, is_zip: bool) -> None:
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(2, 3, 8, 8)).sum().backward()
    optimizer.step()
    content = {
        "state_dict": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "args": argparse.Namespace(lr=0.1, size=(1, 2)),
        "epoch": 3,
        "size": torch.Size([1, 2]),
        "dtype": torch.float16,
        "device": torch.device("cpu"),
        "best": np.float64(0.5),
        "random": [np.random.default_rng(0).bytes(4), torch.get_rng_state()],
    }
    found = read_torch_file(saved(tmp_path / "a.pth", content, is_zip))
    assert list(found) == list(content)
    assert all(same(found["state_dict"][key], tensor) for key, tensor in model.state_dict().items())
    assert same(found["optimizer"]["state"][0]["exp_avg"], optimizer.state_dict()["state"][0]["exp_avg"])
    assert found["optimizer"]["param_groups"][0]["lr"] == 1e-3
    assert (found["epoch"], found["dtype"]) == (3, Name("torch.float16"))
    assert isinstance(found["args"], Call)
    assert found["size"].function == Name("torch.Size")


def odd_values() -> dict[str, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {
            "float8": torch.ones(3).to(torch.float8_e4m3fn),
            "complex": torch.ones(3, dtype=torch.complex64),
            "complex128": torch.ones(3, dtype=torch.complex128),
            "untyped": torch.ones(3).untyped_storage(),
            "quantized": torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8),
            "by channel": torch.quantize_per_channel(torch.ones(2, 3), torch.ones(2), torch.zeros(2), 0, torch.qint32),
            "sparse": torch.eye(3).to_sparse(),
            "meta": torch.zeros(3, device="meta"),
            "negated": torch.ones(3, dtype=torch.complex64).conj().imag,
            "model": torch.nn.Linear(2, 3),
        }


@BOTH
def test_values_that_numpy_lacks_do_not_disturb_others(tmp_path: Path, is_zip: bool) -> None:
    found = read_torch_file(saved(tmp_path / "a.pth", {"first": BASE, **odd_values(), "last": torch.arange(5)}, is_zip))
    assert same(found["first"], BASE)
    assert same(found["last"], torch.arange(5))
    assert isinstance(found["untyped"], Storage)
    calls = [name for name, value in found.items() if isinstance(value, Call)]
    assert calls == ["quantized", "by channel", "sparse", "meta", "negated", "model"]
    assert found["model"].function == Name("torch.nn.modules.linear.Linear")
    for name, dtype in [("float8", "float8_e4m3fn"), ("complex", "complex64"), ("complex128", "complex128")]:
        assert (found[name].dtype, found[name].shape) == (dtype, (3,))
        with pytest.raises(UnsupportedSourceError, match=rf"values of {dtype} cannot be read; .*\.float\(\)"):
            found[name].array()


def test_a_tensor_that_repeats_its_values_is_refused(tmp_path: Path) -> None:
    """Otherwise a file of a few bytes could claim terabytes."""
    found = read_torch_file(saved(tmp_path / "a.pth", torch.ones(3).expand(4, 3)))
    with pytest.raises(UnsupportedSourceError, match=r"its stored values \(3\) to make 12; .*\.contiguous"):
        found.array()


class Harmful:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return Path.touch, (self.target,)


@BOTH
def test_nothing_is_executed(tmp_path: Path, is_zip: bool) -> None:
    path = saved(tmp_path / "a.pth", {"state_dict": {"x": BASE}, "bad": Harmful(tmp_path / "harm")}, is_zip)
    assert same(read_torch_file(path)["state_dict"]["x"], BASE)
    assert not (tmp_path / "harm").exists()
    torch.load(path, weights_only=False)  # the negative control
    assert (tmp_path / "harm").exists()
