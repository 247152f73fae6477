"""PyTorch files read without PyTorch: what torch.load reads of what torch.save wrote, or one clear error."""

from __future__ import annotations

import argparse
import random
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from converter.errors import UnsupportedSourceError
from converter.plan.ops import Array
from converter.readers.pytorch.pickled import Call, Name
from converter.readers.pytorch.stored_tensor import Storage, StoredTensor
from converter.readers.pytorch.torch_file import read_torch_file

Tensors = dict[str, torch.Tensor]
BOTH = pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "legacy"])
BASE = torch.arange(24, dtype=torch.float32).reshape(2, 3, 4)
READABLE = ("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool")
TENSORS: Tensors = {
    **{name: torch.tensor([[1, 0, 3], [-4, 5, 100]]).to(getattr(torch, name)) for name in READABLE},
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
    "columns": BASE[:, :, 1::2],
    "one value": BASE[1, 2, 3],
    "diagonal": BASE[0].diagonal(),
    "channels_last": torch.randn(2, 3, 4, 5).contiguous(memory_format=torch.channels_last),
    "parameter": torch.nn.Parameter(torch.randn(3)),
    "one of one": torch.zeros(1, 5)[:, :1],
}


def saved(path: Path, content: Any, is_zip: bool = True, protocol: int = 2) -> Path:
    with warnings.catch_warnings():  # typed storages, which quantized tensors have, are deprecated
        warnings.simplefilter("ignore")
        torch.save(content, path, pickle_protocol=protocol, _use_new_zipfile_serialization=is_zip)
    return path


def as_array(tensor: torch.Tensor) -> Array:
    tensor = tensor.detach()
    array: Array = (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()
    return array


def same(found: StoredTensor, expected: torch.Tensor) -> bool:
    """Bit for bit; NaN and the sign of zero count, too."""
    array, wanted = found.array(), as_array(expected)
    kind = str(expected.dtype).removeprefix("torch.")
    assert isinstance(array, np.ndarray)
    assert (array.dtype, array.shape, found.dtype) == (wanted.dtype, wanted.shape, kind)
    return array.tobytes() == wanted.tobytes()


@BOTH
@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_tensors_as_torch_loads_them(tmp_path: Path, is_zip: bool, protocol: int) -> None:
    path = saved(tmp_path / "a.pth", TENSORS, is_zip, protocol)
    found, oracle = read_torch_file(path), torch.load(path, weights_only=False)
    assert list(found) == list(oracle) == list(TENSORS)
    for name, tensor in oracle.items():
        assert same(found[name], tensor), name
        assert same(found[name], TENSORS[name]), name
    assert found["row"].storage is found["permuted"].storage
    assert found["permuted"].array().base is not None  # a view of the file
    assert not found["whole"].array().flags.writeable


def test_the_comparison_can_fail(tmp_path: Path) -> None:
    found = read_torch_file(saved(tmp_path / "a.pth", TENSORS))
    assert not same(found["whole"], BASE.flip(0))
    assert not same(found["scalar"], torch.tensor(-2.5))


@BOTH
def test_strided_views_of_one_storage(tmp_path: Path, is_zip: bool) -> None:
    """Random slices, permutations and repeated axes of one storage."""
    rng, base = random.Random(0), torch.randn(4, 5, 6, 7)
    views: Tensors = {}
    for number in range(60):
        view = base.permute(*rng.sample(range(4), 4))
        for axis in range(4):
            begin = rng.randrange(view.shape[axis])
            view = view[(slice(None),) * axis + (slice(begin, None, rng.choice([1, 2, 3])),)]
        views[str(number)] = view
    found = read_torch_file(saved(tmp_path / "a.pth", views, is_zip))
    assert all(same(found[name], view) for name, view in views.items())


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
    assert type(found["state_dict"]) is dict  # without the attribute `_metadata`
    assert all(same(found["state_dict"][key], tensor) for key, tensor in model.state_dict().items())
    assert same(found["optimizer"]["state"][0]["exp_avg"], optimizer.state_dict()["state"][0]["exp_avg"])
    assert (found["epoch"], found["dtype"], found["optimizer"]["param_groups"][0]["lr"]) == (
        3,
        Name("torch.float16"),
        1e-3,
    )
    assert isinstance(found["args"], Call)
    assert found["size"].function == Name("torch.Size")


def test_attributes_do_not_hide_a_tensor(tmp_path: Path) -> None:
    parameter, tensor = torch.nn.Parameter(torch.ones(2)), torch.ones(3)
    parameter.note = tensor.note = "note"
    found = read_torch_file(saved(tmp_path / "a.pth", {"parameter": parameter, "tensor": tensor}))
    assert same(found["parameter"], torch.ones(2))
    assert same(found["tensor"], torch.ones(3))


# Values that NumPy has not.


def odd_tensors() -> dict[str, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {
            "float8": torch.ones(3).to(torch.float8_e4m3fn),
            "complex": torch.ones(3, dtype=torch.complex64),
            "complex128": torch.ones(3, dtype=torch.complex128),
            "quantized": torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8),
            "quantized by channel": torch.quantize_per_channel(
                torch.ones(2, 3), torch.ones(2), torch.zeros(2), 0, torch.qint32
            ),
            "sparse": torch.eye(3).to_sparse(),
            "meta": torch.zeros(3, device="meta"),
            "negated": torch.ones(3, dtype=torch.complex64).conj().imag,
            "unsigned": torch.ones(3, dtype=torch.uint16),
            "untyped": torch.ones(3).untyped_storage(),
        }


@BOTH
def test_odd_tensors_do_not_disturb_others(tmp_path: Path, is_zip: bool) -> None:
    content = {"first": BASE, **odd_tensors(), "last": torch.arange(5)}
    found = read_torch_file(saved(tmp_path / "a.pth", content, is_zip))
    assert same(found["first"], BASE)
    assert same(found["last"], torch.arange(5))
    assert same(found["unsigned"], content["unsigned"])
    assert isinstance(found["untyped"], Storage)
    assert {name for name, value in found.items() if isinstance(value, Call)} == {
        "quantized", "quantized by channel", "sparse", "meta", "negated",
    }  # fmt: skip
    for name, dtype in [("float8", "float8_e4m3fn"), ("complex", "complex64"), ("complex128", "complex128")]:
        assert (found[name].dtype, found[name].shape) == (dtype, (3,))
        with pytest.raises(UnsupportedSourceError, match=rf"values of {dtype} cannot be read; .*\.float\(\)"):
            found[name].array()


def test_a_tensor_that_repeats_its_values_is_refused(tmp_path: Path) -> None:
    """Otherwise a file of some bytes could stand for terabytes."""
    found = read_torch_file(
        saved(tmp_path / "a.pth", [torch.ones(3).expand(4, 3), torch.ones(4).as_strided((2, 2), (2, 1))])
    )
    with pytest.raises(UnsupportedSourceError, match=r"3 values stand for 12; save it again after \.contiguous"):
        found[0].array()
    assert same(found[1], torch.ones(2, 2))


@BOTH
def test_a_whole_model_is_an_object(tmp_path: Path, is_zip: bool) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = saved(tmp_path / "a.pth", torch.nn.Sequential(torch.nn.Linear(2, 3)), is_zip)
    found = read_torch_file(path)
    assert isinstance(found, Call)
    assert found.function == Name("torch.nn.modules.container.Sequential")


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
