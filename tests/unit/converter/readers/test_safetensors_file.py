"""Safetensors files: every value as the format's own library wrote it, or one clear error."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from converter.errors import CorruptFileError, UnsupportedSourceError
from converter.readers.pytorch import safetensors_file
from converter.readers.pytorch.safetensors_file import read_safetensors_file

DTYPES = ("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "uint16", "bool")
TENSORS = {
    **{name: torch.tensor([[1, 0, 3], [4, 5, 100]]).to(getattr(torch, name)) for name in DTYPES},
    "special": torch.tensor([np.nan, np.inf, -0.0, 1e-45]),
    "special bfloat16": torch.tensor([np.nan, -np.inf, -0.0, 1e-40, 3.1415]).bfloat16(),
    "scalar": torch.tensor(2.5),
    "scalar bfloat16": torch.tensor(2.5).bfloat16(),
    "empty": torch.zeros(0, 3),
    "axes": torch.arange(120, dtype=torch.float32).reshape(2, 3, 4, 5),
}
METADATA = {"format": "pt", "note": 'ü "quoted"'}


def saved(path: Path, **more: torch.Tensor) -> Path:
    save_file(TENSORS | more, path, METADATA)
    return path


def test_tensors_as_they_were_saved(tmp_path: Path) -> None:
    tensors, metadata = read_safetensors_file(saved(tmp_path / "a.safetensors"))
    assert metadata == METADATA
    assert tensors.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        wanted = (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()
        array, dtype = tensors[name].array(), f"torch.{tensors[name].dtype}"
        assert (array.dtype, array.shape, dtype) == (wanted.dtype, wanted.shape, str(tensor.dtype))
        assert array.tobytes() == wanted.tobytes(), name
    assert not tensors["axes"].array().flags.writeable


def test_a_file_without_tensors_or_metadata(tmp_path: Path) -> None:
    save_file({}, tmp_path / "a.safetensors")
    assert read_safetensors_file(tmp_path / "a.safetensors") == ({}, {})


def test_dtypes_that_numpy_lacks_do_not_disturb_others(tmp_path: Path) -> None:
    odd = {"float8": torch.ones(5).to(torch.float8_e4m3fn), "complex": torch.ones(3, dtype=torch.complex64)}
    tensors, _ = read_safetensors_file(saved(tmp_path / "a.safetensors", **odd))
    assert tensors["axes"].array().tolist() == TENSORS["axes"].tolist()
    assert (tensors["float8"].shape, tensors["complex"].shape) == ((5,), (3,))
    for name, dtype in [("float8", "F8_E4M3"), ("complex", "C64")]:
        with pytest.raises(UnsupportedSourceError, match=f"values of {dtype} cannot be read"):
            tensors[name].array()


# Damage.


def written(path: Path, header: Any, size_bytes: int = 24) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(size_bytes))
    return path


def entry(shape: Any = (6,), begin: Any = 0, end: Any = 24, dtype: Any = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


HALVES = {"a": entry([3], 0, 12), "b": entry([3], 12, 24)}
BAD: dict[str, tuple[Any, str]] = {
    "not JSON": (b"{]", "JSONDecodeError"),
    "not text": (b'{"\xff": 1}', "UnicodeDecodeError"),
    "a list": ([entry()], "TypeError"),
    "a number": (5, "AttributeError"),
    "without a shape": ({"a": {"dtype": "F32", "data_offsets": [0, 24]}}, "KeyError: 'shape'"),
    "a shape that is a number": ({"a": entry(6)}, "TypeError"),
    "a negative shape": ({"a": entry([-6])}, "a has an impossible shape or place"),
    "a fractional shape": ({"a": entry([6.0])}, "a has an impossible shape or place"),
    "an endless shape": ({"a": entry([1] * 100_000)}, "a has an impossible shape or place"),
    "a huge shape": ({"a": entry([2**62])}, "a has an impossible shape or place"),
    "a huge empty shape": ({"a": entry([0, 2**40, 2**40], 0, 0)}, "impossible shape"),
    "more values": ({"a": entry([7])}, "a has 24 bytes; expected 28"),
    "fewer values": ({"a": entry([5])}, "a has 24 bytes; expected 20"),
    "beyond the end": ({"a": entry([7], 0, 28)}, "a has 24 bytes; expected 28"),
    "backwards": ({"a": entry([0], 24, 0)}, "a tensor ends at 0 and the next begins at 24"),
    "three places": ({"a": {**entry(), "data_offsets": [0, 12, 24]}}, "ValueError: too many values"),
    "a dtype that is a list": ({"a": entry(dtype=[])}, "TypeError"),
    "overlapping": ({**HALVES, "b": entry([3], 8, 20)}, "a tensor ends at 12 and the next begins at 8"),
    "a gap": ({"a": entry([3], 0, 12), "b": entry([2], 16, 24)}, "a tensor ends at 12 and the next begins at 16"),
    "bytes at the end": ({"a": entry([3], 0, 12)}, "a tensor ends at 12 and the next begins at 24"),
    "metadata that are a list": ({"__metadata__": [], **HALVES}, "__metadata__ is not a dictionary"),
    "nested without end": (b"[" * 100_000, "nested too deeply"),
}


@pytest.mark.parametrize("kind", BAD)
def test_headers_that_do_not_fit(tmp_path: Path, kind: str) -> None:
    header, words = BAD[kind]
    path = written(tmp_path / "a.safetensors", header)
    with pytest.raises(CorruptFileError, match=rf"a\.safetensors: damaged .*{words}.*Download") as caught:
        read_safetensors_file(path)
    assert len(str(caught.value)) < 500
    with pytest.raises(SafetensorError):
        safe_open(path, "np").__enter__()


def test_a_header_that_is_too_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path / "a.safetensors", HALVES)
    assert read_safetensors_file(path)[0].keys() == {"a", "b"}
    monkeypatch.setattr(safetensors_file, "MAX_HEADER_BYTES", 100)
    with pytest.raises(CorruptFileError, match=r"a header of \d+ bytes in a file of \d+; expected 100 at most"):
        read_safetensors_file(path)
    path.write_bytes(b"\xff" * 8 + b"{}")
    with pytest.raises(CorruptFileError, match="a header of"):
        read_safetensors_file(path)
