"""Write `.safetensors` as a stream: the layout is known before the first tensor, so only one is in memory at a time.

Source: the safetensors format: 8 bytes header length, JSON header {name: {dtype, shape, data_offsets}}, data.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Mapping
from typing import IO, Any

from converter.plan.ops import Array
from converter.writers.specs import TensorSpec, raw_bytes
from effdet_torch.file_format import METADATA_KEY

DTYPES = {"float16": "F16", "float32": "F32", "float64": "F64", "int64": "I64"}


def write_safetensors(
    stream: IO[bytes],
    specs: Mapping[str, TensorSpec],
    tensors: Iterable[tuple[str, Array]],
    metadata: Mapping[str, Any] | None,
) -> None:
    """Write tensors, and metadata as one JSON string, because the format allows only strings."""
    # Wide types first: this keeps every tensor aligned to its own item size.
    order = sorted(specs, key=lambda name: -specs[name].dtype.itemsize)
    more = {} if metadata is None else {METADATA_KEY: json.dumps(metadata)}
    header: dict[str, Any] = {"__metadata__": {"format": "pt", **more}}
    end = 0
    for name in order:
        spec = specs[name]
        begin, end = end, end + spec.size_bytes
        header[name] = {"dtype": DTYPES[spec.dtype.name], "shape": list(spec.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    stream.write(struct.pack("<Q", len(text)) + text)
    data = stream.tell()
    stream.truncate(data + end)
    for name, array in tensors:
        stream.seek(data + header[name]["data_offsets"][0])
        stream.write(raw_bytes(array, specs[name]))
