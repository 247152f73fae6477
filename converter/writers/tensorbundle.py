"""Write a TensorFlow V2 checkpoint ("TensorBundle") without TensorFlow: PREFIX.index and one data file.

Source: TensorFlow's `tensor_bundle.proto` (BundleHeaderProto, BundleEntryProto) and the LevelDB table format.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import crc32c

from converter.formats.leveldb_table import TABLE_MAGIC, mask_crc32c
from converter.plan.ops import Array
from converter.writers.specs import TensorSpec, raw_bytes
from effdet_torch.outputs.atomic import replacing, size_of

DTYPE_NUMBERS = {"float32": 1, "float64": 2, "int32": 3, "int64": 9, "float16": 19}
RESTART_INTERVAL = 16
BLOCK_BYTES = 1 << 18
FOOTER_BYTES = 48


def write_tensorbundle(prefix: Path, specs: Mapping[str, TensorSpec], tensors: Iterable[tuple[str, Array]]) -> None:
    """Write variables as PREFIX.index and PREFIX.data-00000-of-00001, and a `checkpoint` file that names the prefix.

    Raises:
        OutputError: A file cannot be written; existing files stay as they were.
    """
    with writing_tensorbundle(prefix, specs, tensors):
        pass


@contextmanager
def writing_tensorbundle(
    prefix: Path, specs: Mapping[str, TensorSpec], tensors: Iterable[tuple[str, Array]]
) -> Iterator[int]:
    """Write as `write_tensorbundle` does, yield the size in bytes, and move all into place if the block succeeds."""
    entries: dict[bytes, bytes] = {b"": _header()}
    with ExitStack() as stack:
        # The state file is replaced last: until then the folder's old checkpoint remains the valid one.
        state = stack.enter_context(replacing(prefix.parent / "checkpoint"))
        index = stack.enter_context(replacing(Path(f"{prefix}.index")))
        data = stack.enter_context(replacing(Path(f"{prefix}.data-00000-of-00001")))
        for name, array in tensors:
            content = raw_bytes(array, specs[name])
            entries[name.encode()] = _entry(specs[name], data.tell(), mask_crc32c(crc32c.crc32c(content)))
            data.write(content)
        index.write(_table(sorted(entries.items())))
        quoted = prefix.name.replace("\\", "\\\\").replace('"', '\\"')
        state.write(f'model_checkpoint_path: "{quoted}"\nall_model_checkpoint_paths: "{quoted}"\n'.encode())
        yield sum(map(size_of, (state, index, data)))


def _header() -> bytes:
    return _field(1, 1) + _message(3, _field(1, 1))  # one shard; version {producer: 1}; little-endian by default


def _entry(spec: TensorSpec, offset: int, checksum: int) -> bytes:
    shape = b"".join(_message(2, _field(1, size)) for size in spec.shape)
    place = _field(4, offset) + _field(5, spec.size_bytes)
    dtype = _field(1, DTYPE_NUMBERS[spec.dtype.name])
    return dtype + _message(2, shape) + place + b"\x35" + struct.pack("<I", checksum)


def _table(entries: list[tuple[bytes, bytes]]) -> bytes:
    """Return a LevelDB table: data blocks, empty meta index, index block, footer."""
    table = bytearray()
    handles = [(block[-1][0], _append_block(table, block)) for block in _blocks(entries)]
    meta = _append_block(table, [])
    index = _append_block(table, handles)
    footer = (meta + index).ljust(FOOTER_BYTES - 8, b"\0") + TABLE_MAGIC
    return bytes(table + footer)


def _blocks(entries: list[tuple[bytes, bytes]]) -> Iterator[list[tuple[bytes, bytes]]]:
    block: list[tuple[bytes, bytes]] = []
    size = 0
    for entry in entries:
        block.append(entry)
        size += len(entry[0]) + len(entry[1])
        if size >= BLOCK_BYTES:
            yield block
            block, size = [], 0
    if block:
        yield block


def _append_block(table: bytearray, entries: list[tuple[bytes, bytes]]) -> bytes:
    """Append a block with its trailer, and return its handle."""
    block, restarts, previous = bytearray(), [0], b""
    for number, (key, value) in enumerate(entries):
        shared = 0
        if number % RESTART_INTERVAL:
            shared = len(os.path.commonprefix([previous, key]))  # noqa: RUF071 - not paths
        elif number:
            restarts.append(len(block))
        block += _varint(shared) + _varint(len(key) - shared) + _varint(len(value)) + key[shared:] + value
        previous = key
    block += struct.pack(f"<{len(restarts) + 1}I", *restarts, len(restarts))
    handle = _varint(len(table)) + _varint(len(block))
    block += b"\0"  # not compressed
    table += block + struct.pack("<I", mask_crc32c(crc32c.crc32c(bytes(block))))
    return handle


def _field(number: int, value: int) -> bytes:
    """Return a protobuf integer field; zero is the default and is omitted."""
    return _varint(number << 3) + _varint(value) if value else b""


def _message(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    data = bytearray()
    while value > 0x7F:
        data.append(value & 0x7F | 0x80)
        value >>= 7
    data.append(value)
    return bytes(data)
