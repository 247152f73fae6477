"""Files of safetensors: a JSON header with name, dtype, shape and place of every tensor, then the values.

Source: the safetensors format.
"""

from __future__ import annotations

import itertools
import json
import math
import mmap
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from converter.errors import CorruptFileError, SourceError
from converter.readers.pytorch.stored_tensor import ELEMENTS, MAX_AXES, MAX_COUNT, Storage, StoredTensor

MAX_HEADER_BYTES = 16 << 20  # of a file with 2000 tensors: 300 kB; the format itself allows 100 MB
DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "BOOL": "bool"} | {
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
            raise ValueError(f"a header of {begin} bytes in a file of {len(data)}; expected {MAX_HEADER_BYTES} at most")
        header = json.loads(bytes(data[8:begin]))
        metadata = header.pop("__metadata__", {})
        if not isinstance(metadata, dict):
            raise ValueError("__metadata__ is no dictionary")
        tensors = {name: _tensor(name, entry, data[begin:]) for name, entry in header.items()}
        _require_tiled((entry["data_offsets"] for entry in header.values()), len(data) - begin)
    except (AttributeError, CorruptFileError, KeyError, RecursionError, TypeError, ValueError) as error:
        kind = "" if isinstance(error, CorruptFileError) else f"{type(error).__name__}: "
        problem = f"{kind}{str(error)[:200]}"
        raise CorruptFileError(f"{path}: damaged safetensors file: {problem}. Download or copy it again.") from error
    return tensors, metadata


def _tensor(name: str, entry: dict[str, Any], data: memoryview) -> StoredTensor:
    """Check one entry of the header: its bytes are as many as its shape needs; of an unknown dtype nobody knows."""
    dtype, shape, (begin, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
    if len(shape) > MAX_AXES or not all(isinstance(n, int) and 0 <= n < MAX_COUNT for n in (*shape, begin, end)):
        raise ValueError(f"{name} has an impossible shape or place")
    dtype = DTYPES.get(dtype, dtype)
    is_known = dtype in ELEMENTS
    item_bytes = np.dtype(ELEMENTS[dtype]).itemsize if is_known else 1
    storage = Storage(name, dtype, item_bytes, math.prod(shape) if is_known else end - begin)
    storage.place(data[begin:end])
    return StoredTensor(storage, dtype, 0, shape, tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape))))


def _require_tiled(spans: Iterable[tuple[int, int]], size_bytes: int) -> None:
    """Check that the tensors lie one behind the other, from the first byte to the last, as the format demands."""
    places = [(0, 0), *sorted(map(tuple, spans)), (size_bytes, size_bytes)]
    for (_, end), (begin, _) in itertools.pairwise(places):
        if begin != end:
            raise ValueError(f"a tensor ends at {end} and the next begins at {begin}")
