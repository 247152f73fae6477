"""Files of safetensors: a JSON header with name, dtype, shape and place of every tensor, then the values.

The format's own library is not used for reading: it copies every tensor instead of mapping the file, it cannot give
bfloat16 to NumPy, and one dtype that it does not know makes it refuse the whole file.

Source: the safetensors format.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from converter.errors import CorruptFileError
from converter.formats.leveldb_table import extend_crc32c
from converter.readers.pytorch.stored_tensor import ELEMENTS, MAX_AXES, MAX_COUNT, Storage, StoredTensor
from effdet_torch.file_format import CHECKSUMS_KEY, METADATA_KEY
from effdet_torch.untrusted.documents import parse_json
from effdet_torch.untrusted.files import map_file

MAX_HEADER_BYTES = 16 << 20  # a file with 2000 tensors has 300 kB; the format itself allows 100 MB
DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "BOOL": "bool"} | {
    f"{letter}{bits}": f"{name}{bits}" for letter, name in (("I", "int"), ("U", "uint")) for bits in (8, 16, 32, 64)
}


def read_safetensors_file(path: Path) -> tuple[dict[str, StoredTensor], dict[str, Any]]:
    """Return the tensors of a file, whose values are not read yet, and the texts in its `__metadata__`.

    Raises:
        OSError: The file cannot be opened.
        CorruptFileError: It is cut off or damaged.
    """
    data = map_file(path)
    begin = 8 + int.from_bytes(data[:8], "little")
    try:
        if begin > min(len(data), MAX_HEADER_BYTES):
            raise ValueError(f"a header of {begin} bytes in a file of {len(data)}; expected {MAX_HEADER_BYTES} at most")
        header = parse_json(bytes(data[8:begin]))
        metadata = header.pop("__metadata__", {})
        if not isinstance(metadata, dict):
            raise ValueError("__metadata__ is not a dictionary")
        checksums = {name: int(text, 16) for name, text in parse_json(metadata.get(CHECKSUMS_KEY, "{}")).items()}
        found = extend_crc32c(0, metadata.get(METADATA_KEY, "").encode())
        if checksums.get(METADATA_KEY, found) != found:
            raise CorruptFileError(f"{METADATA_KEY} does not match its checksum (CRC-32C)")
        tensors = {name: _tensor(name, entry, data[begin:], checksums.get(name)) for name, entry in header.items()}
        _require_tiled((entry["data_offsets"] for entry in header.values()), len(data) - begin)
    except (AttributeError, CorruptFileError, KeyError, TypeError, ValueError) as error:
        kind = "" if isinstance(error, CorruptFileError) else f"{type(error).__name__}: "
        problem = f"{kind}{str(error)[:200]}"
        raise CorruptFileError(f"{path}: damaged safetensors file: {problem}. Download or copy it again.") from error
    return tensors, metadata


def _tensor(name: str, entry: dict[str, Any], data: memoryview, checksum: int | None) -> StoredTensor:
    """Check that an entry of the header has as many bytes as its shape needs, which is not known for other dtypes."""
    dtype, shape, (begin, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
    if len(shape) > MAX_AXES or not all(isinstance(n, int) and 0 <= n < MAX_COUNT for n in (*shape, begin, end)):
        raise ValueError(f"{name} has an impossible shape or place")
    dtype = DTYPES.get(dtype, dtype)
    item_bytes, count = (ELEMENTS[dtype].itemsize, math.prod(shape)) if dtype in ELEMENTS else (1, end - begin)
    storage = Storage(name, dtype, item_bytes, count, algorithm="CRC-32C")
    storage.place(data[begin:end], checksum)
    return StoredTensor(storage, dtype, 0, shape, tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape))))


def _require_tiled(spans: Iterable[tuple[int, int]], size_bytes: int) -> None:
    """Check that the tensors follow each other from the first byte to the last, as the format demands."""
    places = [(0, 0), *sorted(map(tuple, spans)), (size_bytes, size_bytes)]
    for (_, end), (begin, _) in itertools.pairwise(places):
        if begin != end:
            raise ValueError(f"a tensor ends at {end} and the next begins at {begin}")
