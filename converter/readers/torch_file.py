"""Files of `torch.save`, read without PyTorch: tensors as views of the mapped file, everything else as plain values.

Since PyTorch 1.6 a file is a ZIP archive: `<name>/data.pkl` says what it holds, `<name>/data/<key>` are the values of
a storage. Older files are four pickles (a magic number, the protocol, the machine, the content), a fifth with the order
of the storages, and then each of those as a count and its values.

Source: PyTorch's serialization notes, and the output of `torch.save` of both kinds.
"""

from __future__ import annotations

import io
import math
import mmap
import struct
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from converter.errors import CorruptFileError, SourceError, UnsupportedSourceError
from converter.ops import Array, Shape
from converter.readers.pickled import Name, read_pickle

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
MAX_PICKLE_BYTES = 64 << 20
MAX_AXES, MAX_KEY, MAX_COUNT = 32, 80, 1 << 48
_HEADER = struct.Struct("<4s22xHH")  # of a member: signature, ..., length of the name, length of the extra field
_SAVE_AGAIN = "written on a big-endian machine; save it again on a little-endian one"
BFLOAT16 = "bfloat16"  # NumPy has none: its bits are the upper half of a float32
# PyTorch's name of a dtype -> what NumPy reads its values as.
ELEMENTS: Mapping[str, str] = {
    "float64": "<f8",
    "float32": "<f4",
    "float16": "<f2",
    BFLOAT16: "<u2",
    **{f"int{bits}": f"<i{bits // 8}" for bits in (8, 16, 32, 64)},
    **{f"uint{bits}": f"<u{bits // 8}" for bits in (8, 16, 32, 64)},
    "bool": "?",
}
# Class of a storage in `torch` -> (dtype, bytes of a value).
STORAGES: Mapping[str, tuple[str, int]] = {
    "DoubleStorage": ("float64", 8),
    "FloatStorage": ("float32", 4),
    "HalfStorage": ("float16", 2),
    "BFloat16Storage": (BFLOAT16, 2),
    "LongStorage": ("int64", 8),
    "IntStorage": ("int32", 4),
    "ShortStorage": ("int16", 2),
    "CharStorage": ("int8", 1),
    "ByteStorage": ("uint8", 1),
    "BoolStorage": ("bool", 1),
    "storage.UntypedStorage": ("uint8", 1),
    "ComplexDoubleStorage": ("complex128", 16),
    "ComplexFloatStorage": ("complex64", 8),
    "QInt32Storage": ("qint32", 4),
    **{f"Q{name}Storage": (f"q{name.lower()}", 1) for name in ("Int8", "UInt8", "UInt4x2", "UInt2x4")},
}
# Functions that make a tensor, and how many arguments they then have: one more says that the values are not as stored.
_TENSORS = {"_rebuild_tensor": 4, "_rebuild_tensor_v2": 6, "_rebuild_tensor_v3": 7}
_PARAMETERS = ("_rebuild_parameter", "_rebuild_parameter_with_state")
_WITH_ATTRIBUTES = "torch._tensor._rebuild_from_type_v2"


@dataclass(eq=False)
class Storage:
    """Values in a row, which tensors share.

    Attributes:
        key: its name in the file.
        dtype: of its values, unless a tensor says otherwise.
        item_bytes: length of a value.
        count: how many values there must be.
        data: where they lie in the file.
        checksum: CRC-32 of the data; None where the file has none, or when it was checked.
    """

    key: str
    dtype: str
    item_bytes: int
    count: int
    data: memoryview = field(default_factory=lambda: memoryview(b""))
    checksum: int | None = None

    def place(self, data: memoryview, checksum: int | None = None) -> None:
        """Say where the values lie; CorruptFileError if there are more, or fewer."""
        if len(data) != self.count * self.item_bytes:
            raise CorruptFileError(f"{self.key} has {len(data)} bytes; expected {self.count * self.item_bytes}")
        self.data, self.checksum = data, checksum

    def require_sound(self) -> None:
        """Compare the data with their checksum, once; CorruptFileError if they differ."""
        if self.checksum is not None and zlib.crc32(self.data) != self.checksum:
            raise CorruptFileError(f"{self.key} does not match its checksum")
        self.checksum = None


@dataclass(frozen=True, eq=False)
class StoredTensor:
    """A tensor of a file; nothing of it is read before `array` is called. Offset and stride count values, not bytes."""

    storage: Storage
    dtype: str
    offset: int
    shape: Shape
    stride: Shape

    def __post_init__(self) -> None:
        if not len(self.stride) == len(self.shape) <= MAX_AXES:
            raise ValueError(f"a tensor with {len(self.shape)} axes and {len(self.stride)} strides")
        numbers = (self.offset, *self.shape, *self.stride)
        if not all(isinstance(n, int) and 0 <= n < MAX_COUNT for n in numbers) or math.prod(self.shape) >= MAX_COUNT:
            raise ValueError("a tensor with an impossible shape, stride or offset")

    def array(self) -> Array:
        """Return the values, as a read-only view of the file; bfloat16 is widened to float32, which is exact.

        Raises:
            CorruptFileError: The file does not hold as many, or they do not match their checksum.
            UnsupportedSourceError: NumPy has no such values, or the tensor repeats those of its storage.
        """
        if self.dtype not in ELEMENTS:
            raise UnsupportedSourceError(f"values of {self.dtype} cannot be read; save them again after .float()")
        self.storage.require_sound()
        bits, stored = np.dtype(ELEMENTS[self.dtype]), self.storage.data
        count, available = math.prod(self.shape), len(stored) // bits.itemsize
        last = self.offset + sum((n - 1) * step for n, step in zip(self.shape, self.stride, strict=True))
        if count and last >= available:
            raise CorruptFileError(f"{self.storage.key} has {available} values; the tensor's last is at {last}")
        if count > available:  # a file must not ask for more memory than it has bytes
            raise UnsupportedSourceError(f"{available} values stand for {count}; save it again after .contiguous()")
        steps = [step * bits.itemsize for step in self.stride]
        values: Array = np.ndarray(self.shape, bits, stored, self.offset * bits.itemsize if count else 0, steps)
        if self.dtype == BFLOAT16:
            values = values.astype(np.uint32)
            values <<= 16
            values = values.view(np.float32)
        return values


def read_torch_file(path: Path) -> Any:
    """Read what was given to `torch.save`.

    Returns:
        Plain values, see `read_pickle`, and a `StoredTensor` for every tensor.

    Raises:
        SourceError: The file cannot be opened.
        CorruptFileError: It is cut off or damaged.
        UnsupportedSourceError: It is a pickle or an archive, but not one of `torch.save`.
    """
    try:
        with path.open("rb") as file:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:
        raise SourceError(f"{path}: cannot be read: {error}.") from error
    try:
        return _read_zip(path, data) if data[:2] == b"PK" else _read_legacy(data)
    except CorruptFileError as error:
        raise CorruptFileError(f"{path}: damaged PyTorch file: {error}. Download or copy it again.") from error
    except UnsupportedSourceError as error:
        raise UnsupportedSourceError(f"{path}: {error}.") from error


class _Storages(dict[tuple[str, str], Storage]):
    """The storages that a pickle names, by key and dtype: an empty one may be of several."""

    def load(self, identifier: Any) -> Any:
        """Return what a persistent identifier stands for: a storage, or, in older files, a class."""
        match identifier:
            case ("module", Name() as container, _, _):
                return container
            case ("storage", Name(path), str(key), _, int(count), *view) if view in ([], [None]):
                if not 0 <= count < MAX_COUNT or len(key) > MAX_KEY:
                    raise ValueError("a storage with an impossible length or name")
                if (name := path.removeprefix("torch.")) not in STORAGES:
                    raise UnsupportedSourceError(f"it holds a {path}, which is not known; save only the state_dict")
                dtype, item_bytes = STORAGES[name]
                return self.setdefault((key, dtype), Storage(f"storage {key}", dtype, item_bytes, count))
        raise ValueError("a value outside of the pickle that is no storage")


def _construct(path: str, arguments: Any) -> Any:
    """Return the tensor that a call would make; None for anything else."""
    if path == _WITH_ATTRIBUTES and arguments[1] == Name("torch.Tensor"):
        path, arguments = arguments[0].path, arguments[2]
    name = path.removeprefix("torch._utils.")
    if name in _PARAMETERS:
        return arguments[0] if isinstance(arguments[0], StoredTensor) else None
    if name not in _TENSORS or len(arguments) != _TENSORS[name]:
        return None
    storage, offset, shape, stride = arguments[:4]
    if not (isinstance(storage, Storage) and isinstance(shape, tuple) and isinstance(stride, tuple)):
        raise ValueError("a tensor of something that is no storage, or without a shape")
    dtype = arguments[6].path.removeprefix("torch.") if len(arguments) > 6 else storage.dtype
    return StoredTensor(storage, dtype, offset, shape, stride)


def _read_zip(path: Path, data: mmap.mmap) -> Any:
    try:
        with zipfile.ZipFile(path) as archive:
            members = {info.filename.partition("/")[2]: info for info in archive.infolist()}
    except (zipfile.BadZipFile, NotImplementedError, OSError, ValueError) as error:
        raise CorruptFileError(str(error)) from error
    if "constants.pkl" in members:
        raise UnsupportedSourceError("a TorchScript program; give the state_dict that it was made from")
    if "data.pkl" not in members:
        raise UnsupportedSourceError("an archive, but not one of torch.save; give a file with a state_dict")
    size = members["data.pkl"].file_size
    if size > MAX_PICKLE_BYTES:
        raise UnsupportedSourceError(f"it holds {size} bytes beside its tensors; save only the state_dict")
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


def _stored(data: mmap.mmap, member: zipfile.ZipInfo) -> tuple[memoryview, int | None]:
    """Return the bytes of an uncompressed member, where they lie in the file, and their CRC-32.

    `torch.save` can be told to compute no checksums; it then writes zeros.
    """
    begin = member.header_offset
    header = data[begin : begin + _HEADER.size] if begin >= 0 else b""
    if member.compress_type != zipfile.ZIP_STORED or len(header) < _HEADER.size or not header.startswith(b"PK\x03\x04"):
        raise CorruptFileError(f"{member.filename[:80]} is compressed, or not where the archive says")
    _, name_bytes, extra_bytes = _HEADER.unpack(header)
    start = begin + _HEADER.size + name_bytes + extra_bytes
    if start + member.file_size > len(data):
        raise CorruptFileError(f"{member.filename[:80]} is cut off")
    return memoryview(data)[start : start + member.file_size], member.CRC or None


def _read_legacy(data: mmap.mmap) -> Any:
    stream, storages = io.BytesIO(data[:MAX_PICKLE_BYTES]), _Storages()
    if read_pickle(stream) != LEGACY_MAGIC:
        raise UnsupportedSourceError("a pickle, but not one of torch.save; give a PyTorch file or a checkpoint")
    _, machine, content, keys = (read_pickle(stream, storages.load, _construct) for _ in range(4))
    if isinstance(machine, dict) and machine.get("little_endian") is False:
        raise UnsupportedSourceError(_SAVE_AGAIN)
    named = {key: storage for (key, _), storage in storages.items()}
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys) or set(keys) != set(named):
        raise CorruptFileError("the list of storages is not that of the tensors")
    position = stream.tell()
    for key in keys:
        begin = position + 8
        position = begin + int.from_bytes(data[position:begin], "little") * named[key].item_bytes
        named[key].place(memoryview(data)[begin:position])
    return content
