"""Files of `torch.save`, read without PyTorch: tensors as views of the mapped file, everything else as plain values.

Since PyTorch 1.6 a file is a ZIP archive: `<name>/data.pkl` describes the content, `<name>/data/<key>` has the values
of a storage. Older files are four pickles (a magic number, the protocol, the machine, the content), a fifth with the
order of the storages, and then each of those as a count and its values.

Source: PyTorch's serialization notes, and the output of `torch.save` in both formats.
"""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from converter.errors import CorruptFileError, UnsupportedSourceError
from converter.formats.pickled import Name, read_pickle
from converter.readers.pytorch.stored_tensor import BFLOAT16, MAX_COUNT, Storage, StoredTensor
from effdet_torch.untrusted.files import ARCHIVE_ERRORS, map_file

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
MAX_PICKLE_BYTES = 64 << 20
MAX_KEY = 80
_HEADER = struct.Struct("<4s22xHH")  # of a member: signature, ..., size of the name, size of the extra field
_SAVE_AGAIN = "written on a big-endian machine; save it again on a little-endian one"
# Bytes of a value -> {class of its storage: dtype}.
_STORAGES: Mapping[int, Mapping[str, str]] = {
    16: {"ComplexDouble": "complex128"},
    8: {"Double": "float64", "Long": "int64", "ComplexFloat": "complex64"},
    4: {"Float": "float32", "Int": "int32", "QInt32": "qint32"},
    2: {"Half": "float16", "BFloat16": BFLOAT16, "Short": "int16"},
    1: {"Char": "int8", "Byte": "uint8", "Bool": "bool", "storage.Untyped": "uint8"}
    | {name: name.lower() for name in ("QInt8", "QUInt8", "QUInt4x2", "QUInt2x4")},
}
STORAGES = {f"torch.{name}Storage": (dtype, size) for size, named in _STORAGES.items() for name, dtype in named.items()}
# Functions that create a tensor, and their number of arguments: one more means that the values are not as stored.
_TENSORS = {"_rebuild_tensor": 4, "_rebuild_tensor_v2": 6, "_rebuild_tensor_v3": 7}
_PARAMETERS = ("_rebuild_parameter", "_rebuild_parameter_with_state")
_WITH_ATTRIBUTES = "torch._tensor._rebuild_from_type_v2"


def read_torch_file(path: Path) -> Any:
    """Read what was given to `torch.save`.

    Returns:
        Plain values, see `read_pickle`, and a `StoredTensor` for every tensor.

    Raises:
        OSError: The file cannot be opened.
        CorruptFileError: It is cut off or damaged.
        UnsupportedSourceError: It is a pickle or an archive, but not one of `torch.save`.
    """
    data = map_file(path)
    try:
        return _read_zip(path, data) if bytes(data[:2]) == b"PK" else _read_legacy(data)
    except CorruptFileError as error:
        raise CorruptFileError(f"{path}: damaged PyTorch file: {error}. Download or copy it again.") from error
    except UnsupportedSourceError as error:
        raise UnsupportedSourceError(f"{path}: {error}.") from error


class _Storages(dict[tuple[str, str], Storage]):
    """The storages that a pickle names, by key and dtype: empty ones of several dtypes may share a key."""

    def load(self, identifier: Any) -> Any:
        """Return what a persistent identifier means: a storage or, in older files, a class."""
        match identifier:
            case ("module", Name() as container, _, _):
                return container
            case ("storage", Name(path), str(key), _, int(count), *view) if view in ([], [None]):
                if not 0 <= count < MAX_COUNT or len(key) > MAX_KEY:
                    raise ValueError("a storage with an impossible length or name")
                if path not in STORAGES:
                    raise UnsupportedSourceError(f"it holds an unknown {path}; save only the state_dict")
                dtype, item_bytes = STORAGES[path]
                return self.setdefault((key, dtype), Storage(f"storage {key}", dtype, item_bytes, count))
        raise ValueError("a value outside of the pickle that is not a storage")


def _construct(path: str, arguments: Any) -> Any:
    """Return the tensor that a call would create; None for anything else."""
    if path == _WITH_ATTRIBUTES and arguments[1] == Name("torch.Tensor"):
        path, arguments = arguments[0].path, arguments[2]
    name = path.removeprefix("torch._utils.")
    if name in _PARAMETERS:
        return arguments[0] if isinstance(arguments[0], StoredTensor) else None
    if name not in _TENSORS or len(arguments) != _TENSORS[name]:
        return None
    storage, offset, shape, stride = arguments[:4]
    if not (isinstance(storage, Storage) and isinstance(shape, tuple) and isinstance(stride, tuple)):
        raise ValueError("a tensor without a storage or a shape")
    dtype = arguments[6].path.removeprefix("torch.") if len(arguments) > 6 else storage.dtype
    return StoredTensor(storage, dtype, offset, shape, stride)


def _read_zip(path: Path, data: memoryview) -> Any:
    try:
        if not zipfile.is_zipfile(path):  # which raises as well, for an end that speaks of several disks
            raise CorruptFileError("it is truncated: its end, which lists the contents, is missing")
        with zipfile.ZipFile(path) as archive:
            members = {info.filename.partition("/")[2]: info for info in archive.infolist()}
    except ARCHIVE_ERRORS as error:
        raise CorruptFileError(str(error)) from error
    if "constants.pkl" in members:
        raise UnsupportedSourceError("a TorchScript program; give the state_dict of its model")
    if "archive_format" in members:
        raise UnsupportedSourceError("a program of torch.export; give the state_dict of its model")
    if "data.pkl" not in members:
        raise UnsupportedSourceError("an archive, but not one of torch.save; give a file with a state_dict")
    size = members["data.pkl"].file_size
    if size > MAX_PICKLE_BYTES:
        raise UnsupportedSourceError(f"it holds {size} bytes besides its tensors; save only the state_dict")
    if "byteorder" in members and _stored(data, members["byteorder"])[0].tobytes() == b"big":
        raise UnsupportedSourceError(_SAVE_AGAIN)
    pickled, storages = Storage("data.pkl", "uint8", 1, size), _Storages()
    pickled.place(*_stored(data, members["data.pkl"]))
    pickled.require_sound()
    content = read_pickle(io.BytesIO(pickled.data), storages.load, _construct)
    for (key, _), storage in storages.items():
        if f"data/{key}" not in members:
            raise CorruptFileError(f"{storage.key} is missing")
        storage.place(*_stored(data, members[f"data/{key}"]))
    return content


def _stored(data: memoryview, member: zipfile.ZipInfo) -> tuple[memoryview, int | None]:
    """Return the bytes of an uncompressed member as a view of the file, and their CRC-32.

    Without checksums, which is an option of `torch.save`, the file has zeros in their place.
    """
    begin = member.header_offset
    header = data[begin : begin + _HEADER.size] if begin >= 0 else b""
    signature, name_bytes, extra_bytes = _HEADER.unpack(header) if len(header) == _HEADER.size else (b"", 0, 0)
    if member.compress_type != zipfile.ZIP_STORED or signature != b"PK\x03\x04":
        raise CorruptFileError(f"{member.filename[:80]} is compressed, or not where the archive says")
    start = begin + _HEADER.size + name_bytes + extra_bytes
    if start + member.file_size > len(data):
        raise CorruptFileError(f"{member.filename[:80]} is cut off")
    return data[start : start + member.file_size], member.CRC or None


def _read_legacy(data: memoryview) -> Any:
    stream, storages = io.BytesIO(data[:MAX_PICKLE_BYTES]), _Storages()
    if read_pickle(stream) != LEGACY_MAGIC:
        raise UnsupportedSourceError("a pickle, but not one of torch.save; give a PyTorch file or a checkpoint")
    _, machine, content, keys = (read_pickle(stream, storages.load, _construct) for _ in range(4))
    if isinstance(machine, dict) and machine.get("little_endian") is False:
        raise UnsupportedSourceError(_SAVE_AGAIN)
    named = {key: storage for (key, _), storage in storages.items()}
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys) or set(keys) != set(named):
        raise CorruptFileError("its list of storages does not match its tensors")
    position = stream.tell()
    for storage in map(named.__getitem__, keys):
        begin = position + 8
        count = int.from_bytes(data[position:begin], "little")
        if count != storage.count:
            raise CorruptFileError(f"{storage.key} has {count} values; expected {storage.count}")
        position = begin + count * storage.item_bytes
        storage.place(data[begin:position])
    return content
