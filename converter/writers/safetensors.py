"""Write `.safetensors` as a stream: the layout is known before the first tensor, so only one is in memory at a time.

Source: the safetensors format: 8 bytes header length, JSON header {name: {dtype, shape, data_offsets}}, data.
"""

from __future__ import annotations

import itertools
import json
import struct
from collections.abc import Iterable, Mapping
from typing import IO, Any

from crc32c import crc32c

from converter.plan.ops import Array
from converter.writers.specs import TensorSpec, raw_bytes
from effdet_torch.file_format import CHECKSUMS_KEY, METADATA_KEY

DTYPES = {"float16": "F16", "float32": "F32", "float64": "F64", "int64": "I64"}


def write_safetensors(
    stream: IO[bytes],
    specs: Mapping[str, TensorSpec],
    tensors: Iterable[tuple[str, Array]],
    metadata: Mapping[str, Any] | None,
) -> None:
    """Write tensors; metadata and checksums each as one JSON string, because the format allows only strings."""
    # Wide types first: this keeps every tensor aligned to its own item size.
    order = sorted(specs, key=lambda name: -specs[name].dtype.itemsize)
    ends = list(itertools.accumulate(specs[name].size_bytes for name in order))
    begins = dict(zip(order, (0, *ends), strict=False))
    checksums = dict.fromkeys(order, 0)
    header = _header(specs, begins, checksums, metadata)
    stream.write(header)
    stream.truncate(len(header) + (ends or [0])[-1])
    for name, array in tensors:
        content = raw_bytes(array, specs[name])
        stream.seek(len(header) + begins[name])
        stream.write(content)
        checksums[name] = crc32c(content)
    stream.seek(0)
    stream.write(_header(specs, begins, checksums, metadata))  # of the same length: all checksums have 8 digits


def _header(
    specs: Mapping[str, TensorSpec],
    begins: Mapping[str, int],
    checksums: Mapping[str, int],
    metadata: Mapping[str, Any] | None,
) -> bytes:
    texts = {"format": "pt"}
    if metadata is not None:
        text = json.dumps(metadata)
        digits = {
            name: f"{checksum:08x}" for name, checksum in ((METADATA_KEY, crc32c(text.encode())), *checksums.items())
        }
        texts |= {METADATA_KEY: text, CHECKSUMS_KEY: json.dumps(digits)}
    header: dict[str, Any] = {"__metadata__": texts}
    for name, begin in begins.items():
        spec = specs[name]
        place = [begin, begin + spec.size_bytes]
        header[name] = {"dtype": DTYPES[spec.dtype.name], "shape": list(spec.shape), "data_offsets": place}
    content = json.dumps(header, separators=(",", ":")).encode()
    content += b" " * (-len(content) % 8)
    return struct.pack("<Q", len(content)) + content
