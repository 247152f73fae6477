"""Write PyTorch's file format without PyTorch, whose import would take longer than the whole conversion.

The file is {"state_dict": OrderedDict of tensors, "metadata": plain values}, loadable with `weights_only=True`.

Source: PyTorch serialization notes and `torch.save` output: a ZIP archive, uncompressed; `data.pkl` is a protocol 2
pickle whose tensors name their storage by a persistent id; `data/<n>` holds the bytes of storage n, 64-byte aligned.
"""

from __future__ import annotations

import math
import pickle
import struct
import zipfile
from collections.abc import Iterable, Mapping
from typing import IO, Any

from converter.plan.ops import Array
from converter.writers.specs import TensorSpec, raw_bytes

ROOT = "archive"
ALIGNMENT = 64
STORAGES = {"float16": "HalfStorage", "float32": "FloatStorage", "float64": "DoubleStorage", "int64": "LongStorage"}
_LOCAL_HEADER_BYTES = 30
_PADDING_FIELD = 0x4246  # "FB": the extra field in which PyTorch itself pads


def write_pth(
    stream: IO[bytes],
    specs: Mapping[str, TensorSpec],
    tensors: Iterable[tuple[str, Array]],
    metadata: Mapping[str, Any] | None,
) -> None:
    """Write tensors in the order of the state_dict, and metadata; without metadata, it is the bare state_dict."""
    storage = {name: str(number) for number, name in enumerate(specs)}
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
        _add(archive, "data.pkl", _pickled(specs, storage, metadata))
        _add(archive, "byteorder", b"little")
        for name, array in tensors:
            _add(archive, f"data/{storage[name]}", raw_bytes(array, specs[name]))
        _add(archive, "version", b"3\n")


def _add(archive: zipfile.ZipFile, name: str, data: bytes | memoryview) -> None:
    """Store one record with its first byte at a multiple of the alignment, so that PyTorch can map the file."""
    info = zipfile.ZipInfo(f"{ROOT}/{name}")  # with a fixed date, so that the output is reproducible
    assert archive.fp is not None
    start = archive.fp.tell() + _LOCAL_HEADER_BYTES + len(info.filename) + 4
    padding = -start % ALIGNMENT
    info.extra = struct.pack("<HH", _PADDING_FIELD, padding) + bytes(padding)
    archive.writestr(info, data)


def _pickled(specs: Mapping[str, TensorSpec], storage: Mapping[str, str], metadata: Mapping[str, Any] | None) -> bytes:
    tensors = b"".join(_text(name) + _tensor(spec, storage[name]) for name, spec in specs.items())
    state_dict = _ordered_dict() + pickle.MARK + tensors + pickle.SETITEMS
    if metadata is None:
        return pickle.PROTO + b"\x02" + state_dict + pickle.STOP
    items = _text("state_dict") + state_dict + _text("metadata") + _plain(dict(metadata))
    return pickle.PROTO + b"\x02" + pickle.EMPTY_DICT + pickle.MARK + items + pickle.SETITEMS + pickle.STOP


def _tensor(spec: TensorSpec, storage: str) -> bytes:
    """Return the opcodes of `torch._utils._rebuild_tensor_v2(storage, offset, size, stride, requires_grad, hooks)`."""
    count = spec.size_bytes // spec.dtype.itemsize
    stride = [math.prod(spec.shape[axis + 1 :]) for axis in range(len(spec.shape))]
    kind = _global("torch", STORAGES[spec.dtype.name])
    persistent_id = _tuple(_text("storage"), kind, _text(storage), _text("cpu"), _plain(count)) + pickle.BINPERSID
    geometry = [_plain(0), _tuple(*map(_plain, spec.shape)), _tuple(*map(_plain, stride))]
    arguments = _tuple(persistent_id, *geometry, _plain(False), _ordered_dict())
    return _global("torch._utils", "_rebuild_tensor_v2") + arguments + pickle.REDUCE


def _ordered_dict() -> bytes:
    return _global("collections", "OrderedDict") + pickle.EMPTY_TUPLE + pickle.REDUCE


def _plain(value: Any) -> bytes:
    """Return the opcodes of a plain value, without memo entries, so that pieces can be joined freely."""
    if value is None:
        return pickle.NONE
    if isinstance(value, bool):
        return pickle.NEWTRUE if value else pickle.NEWFALSE
    if isinstance(value, int):
        return _integer(value)
    if isinstance(value, float):
        return pickle.BINFLOAT + struct.pack(">d", value)
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, (list, tuple)):
        return pickle.EMPTY_LIST + pickle.MARK + b"".join(map(_plain, value)) + pickle.APPENDS
    if isinstance(value, Mapping):
        items = b"".join(_text(key) + _plain(item) for key, item in value.items())
        return pickle.EMPTY_DICT + pickle.MARK + items + pickle.SETITEMS
    raise TypeError(f"metadata holds a {type(value).__name__}; expected plain values")


def _integer(value: int) -> bytes:
    if -(2**31) <= value < 2**31:
        return pickle.BININT + struct.pack("<i", value)
    data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return pickle.LONG1 + struct.pack("<B", len(data)) + data


def _text(value: str) -> bytes:
    data = value.encode(errors="surrogatepass")  # as pickle does: a file name may hold bytes that are not UTF-8
    return pickle.BINUNICODE + struct.pack("<I", len(data)) + data


def _global(module: str, name: str) -> bytes:
    return pickle.GLOBAL + f"{module}\n{name}\n".encode()


def _tuple(*items: bytes) -> bytes:
    return pickle.MARK + b"".join(items) + pickle.TUPLE
