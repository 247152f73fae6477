"""Files of safetensors: a JSON header with name, dtype, shape and place of every tensor, then the values.

Source: the safetensors format.
"""

from __future__ import annotations

import json
import math
import mmap
from pathlib import Path
from typing import Any

from converter.errors import CorruptFileError, SourceError
from converter.readers.torch_file import Storage, StoredTensor

MAX_HEADER_BYTES = 100_000_000  # the format's own limit
DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"} | {
    f"{letter}{bits}": f"{name}{bits}" for letter, name in (("I", "int"), ("U", "uint")) for bits in (8, 16, 32, 64)
}


def read_safetensors_file(path: Path) -> tuple[dict[str, StoredTensor], dict[str, Any]]:
    """Return the tensors of a file, of which nothing is read yet, and the texts in its `__metadata__`.

    Raises:
        SourceError: The file cannot be opened.
        CorruptFileError: It is cut off or damaged.
    """
    try:
        with path.open("rb") as file:
            data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except (OSError, ValueError) as error:
        raise SourceError(f"{path}: cannot be read: {error}.") from error
    begin = 8 + int.from_bytes(data[:8], "little")
    try:
        if begin > min(len(data), MAX_HEADER_BYTES):
            raise ValueError(f"a header of {begin} bytes in a file of {len(data)}")
        header = json.loads(bytes(data[8:begin]))
        metadata = header.pop("__metadata__", {})
        if not isinstance(metadata, dict):
            raise ValueError("__metadata__ is no dictionary")
        return {name: _tensor(name, entry, data[begin:]) for name, entry in header.items()}, metadata
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
        raise CorruptFileError(
            f"{path}: damaged safetensors file: {type(error).__name__}: {error}. Copy it again."
        ) from error


def _tensor(name: str, entry: dict[str, Any], data: memoryview) -> StoredTensor:
    """Check one entry of the header: its bytes lie in the file, and are as many as its shape needs."""
    dtype, shape, (begin, end) = DTYPES.get(entry["dtype"], "bool"), entry["shape"], entry["data_offsets"]
    if not all(isinstance(number, int) and number >= 0 for number in (*shape, begin, end)):
        raise ValueError(f"{name} has shape {shape} at {begin} to {end}")
    storage = Storage(dtype, name, data[begin:end])
    if end > len(data) or end - begin != math.prod(shape) * storage.bits.itemsize:
        raise ValueError(f"{name} of shape {shape} lies at {begin} to {end} of {len(data)} bytes")
    stride = tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))
    return StoredTensor(storage, 0, tuple(shape), stride)
