"""HDF5 files in the classic layout, which h5py writes unless told otherwise: groups, texts as attributes, plain arrays.

    superblock -> object header of the root group
    object header = messages: symbol table (of a group); type, shape and place (of an array); attributes
    symbol table = B-tree of leaves with (name, object header); the names lie in a local heap
    texts of varying length lie in global heaps

The file is not given to libhdf5, which can run forever on a damaged one, where nothing in Python can stop it. Here
every address and size is checked before it is used, and a budget bounds how much of the file is looked at. HDF5 has no
checksum over values in this layout: damage there goes unnoticed.

Errors say what is wrong with the bytes; the caller, who knows the file, adds its name.

Source: HDF5 File Format Specification 3.0: superblock 0, object header 1, B-tree 1, local heap, global heap.
"""

from __future__ import annotations

import math
import mmap
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from converter.errors import CorruptFileError, UnsupportedSourceError
from converter.formats.hdf5_messages import (
    VaryingText,
    decode,
    read_attribute,
    read_dtype,
    read_place,
    read_shape,
    unpack,
)

SIGNATURE = b"\x89HDF\r\n\x1a\n"
_SHAPE, _DTYPE, _PLACE, _ATTRIBUTE, _CONTINUATION, _SYMBOL_TABLE = 0x01, 0x03, 0x08, 0x0C, 0x10, 0x11
_SHARED = 0x02  # flag of a message whose content lies elsewhere
_SYMBOLIC_LINK = 2
_MAX_TEXT_BYTES = 4096
# What may be looked at: a unit is one access, or 64 bytes. The largest EfficientDet needs some 60 000.
_BUDGET, _UNIT_BYTES = 1_000_000, 64
_NEWER = "it has a newer layout (libver='latest'); write it again with h5py's default"


class Dataset(NamedTuple):
    """An array: dtype and shape of its values, and where they begin."""

    dtype: np.dtype[np.generic]
    shape: tuple[int, ...]
    offset: int


class Hdf5File:
    """A mapped file. Objects are named by the address of their header.

    Attributes:
        root: the root group.
    """

    def __init__(self, path: Path) -> None:
        """Map a file and read its superblock.

        Raises:
            CorruptFileError: It is cut off, or no HDF5 file.
            UnsupportedSourceError: It has a newer layout than this reader knows.
            OSError: It cannot be opened.
        """
        with path.open("rb") as file:
            self._end = os.fstat(file.fileno()).st_size
            if file.read(len(SIGNATURE)) != SIGNATURE:
                raise CorruptFileError("it does not begin like an HDF5 file")
            self._data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._budget = _BUDGET
        self._groups: dict[int, dict[str, int]] = {}
        self._heaps: dict[int, dict[int, bytes]] = {}
        version, offset_bytes, length_bytes = self._unpack("<B4xBB", 8)
        if version != 0:
            raise UnsupportedSourceError(_NEWER)
        base, _, end, _, _, self.root = self._unpack("<6Q", 24)
        if (offset_bytes, length_bytes, base) != (8, 8, 0):
            raise UnsupportedSourceError(f"addresses of {offset_bytes} and {length_bytes} bytes from byte {base} on")
        if end > self._end:
            raise CorruptFileError(f"it is cut off at {self._end} of {end} bytes")

    def children(self, group: int) -> dict[str, int]:
        """Return {name: object} of a group.

        Raises:
            CorruptFileError: The bytes contradict themselves.
            UnsupportedSourceError: It is no group, or one of a newer layout.
        """
        if group not in self._groups:
            table = dict(self._messages(group)).get(_SYMBOL_TABLE)
            if table is None:
                raise UnsupportedSourceError(f"the object at byte {group} is no group of the classic layout")
            self._groups[group] = dict(self._links(*unpack("<2Q", table)))
        return self._groups[group]

    def texts(self, address: int) -> dict[str, list[str]]:
        """Return {name: texts} of the attributes of an object that hold texts or nothing.

        Raises:
            CorruptFileError: The bytes contradict themselves.
        """
        attributes = (read_attribute(content) for kind, content in self._messages(address) if kind == _ATTRIBUTE)
        return {
            name: [text if isinstance(text, str) else self._varying_text(text) for text in texts]
            for name, texts in attributes
            if texts is not None
        }

    def dataset(self, address: int) -> Dataset:
        """Describe an array.

        Raises:
            CorruptFileError: Its values do not lie in the file, or their size contradicts the shape.
            UnsupportedSourceError: It is no array, is not stored in one piece, or holds something but numbers.
        """
        messages = dict(self._messages(address))
        if not messages.keys() >= {_DTYPE, _SHAPE, _PLACE}:
            raise UnsupportedSourceError(f"the object at byte {address} is no array of the classic layout")
        dtype, shape = read_dtype(messages[_DTYPE]), read_shape(messages[_SHAPE])
        size = math.prod(shape) * dtype.itemsize
        offset = read_place(messages[_PLACE], size)
        if offset + size > self._end:
            raise CorruptFileError(f"its values end at byte {offset + size} of {self._end}")
        return Dataset(dtype, shape, offset)

    def read(self, dataset: Dataset) -> NDArray[Any]:
        """Return the values, as a view of the file where NumPy can take them as they lie."""
        count = math.prod(dataset.shape)
        values: NDArray[Any] = np.frombuffer(self._data, dataset.dtype, count, dataset.offset)
        if not values.flags.aligned:
            values = values.copy()
        return values.astype(dataset.dtype.newbyteorder("="), copy=False).reshape(dataset.shape)

    def _bytes(self, address: int, size: int) -> bytes:
        self._budget -= 1 + size // _UNIT_BYTES
        if self._budget < 0:
            raise CorruptFileError("its parts point at each other without an end")
        if address + size > self._end:
            raise CorruptFileError(f"{size} bytes at byte {address} leave the file of {self._end} bytes")
        return self._data[address : address + size]

    def _unpack(self, form: str, address: int) -> tuple[Any, ...]:
        return struct.unpack(form, self._bytes(address, struct.calcsize(form)))

    def _messages(self, address: int) -> Iterator[tuple[int, bytes]]:
        """Yield (type, content) of an object header, its continuations included."""
        if self._bytes(address, 4) == b"OHDR":
            raise UnsupportedSourceError(_NEWER)
        version, header_size = self._unpack("<B7xI4x", address)
        if version != 1:
            raise CorruptFileError(f"the object header at byte {address} has version {version}")
        blocks: list[tuple[int, int]] = [(address + 16, header_size)]
        for start, length in blocks:
            block, position = self._bytes(start, length), 8
            while position <= length:
                kind, size, flags = unpack("<HHB", block[position - 8 : position])
                if position + size > length:
                    raise CorruptFileError(f"a message of {size} bytes leaves the object header at byte {address}")
                content = block[position : position + size]
                position += size + 8
                if kind == _CONTINUATION:
                    next_start, next_length = unpack("<2Q", content)
                    blocks.append((next_start, next_length))
                elif not flags & _SHARED:
                    yield kind, content

    def _links(self, tree: int, heap: int) -> Iterator[tuple[str, int]]:
        """Yield (name, object) of a group's B-tree."""
        magic, names_size, names = self._unpack("<4s4xQ8xQ", heap)
        if magic != b"HEAP":
            raise CorruptFileError(f"the names of a group are not at byte {heap}")
        nodes = [tree]
        for node in nodes:
            magic, level, used = self._unpack("<4sxBH", node)
            if magic != b"TREE":
                raise CorruptFileError(f"the tree of a group is not at byte {node}")
            places = struct.unpack(f"<{2 * used}Q", self._bytes(node + 24, 16 * used))[1::2]  # each behind its key
            if level:
                nodes += places
                continue
            for place, address in (symbol for leaf in places for symbol in self._symbols(leaf)):
                yield self._name(names + place, names + names_size), address

    def _symbols(self, leaf: int) -> Iterator[tuple[int, int]]:
        """Yield (place of the name in the local heap, object)."""
        magic, count = self._unpack("<4s2xH", leaf)
        if magic != b"SNOD":
            raise CorruptFileError(f"entries of a group are not at byte {leaf}")
        for place, address, cached in struct.iter_unpack("<2QI20x", self._bytes(leaf + 8, 40 * count)):
            if cached == _SYMBOLIC_LINK:
                raise UnsupportedSourceError("a group holds a symbolic link; expected the object itself")
            yield place, address

    def _name(self, start: int, end: int) -> str:
        end = min(end, start + _MAX_TEXT_BYTES, self._end)
        stop = self._data.find(b"\0", start, end) if start < end else -1
        if stop < 0:
            raise CorruptFileError(f"the name at byte {start} does not end")
        return decode(self._bytes(start, stop - start))

    def _varying_text(self, text: VaryingText) -> str:
        if text.length == 0:
            return ""
        if text.heap not in self._heaps:
            self._heaps[text.heap] = dict(self._heap_items(text.heap))
        item = self._heaps[text.heap].get(text.place, b"")
        if not text.length <= min(len(item), _MAX_TEXT_BYTES):
            raise CorruptFileError(f"a text of {text.length} bytes is not in the heap at byte {text.heap}")
        return decode(item[: text.length])

    def _heap_items(self, heap: int) -> Iterator[tuple[int, bytes]]:
        """Yield (number, content) of a global heap."""
        magic, size = self._unpack("<4s4xQ", heap)
        if magic != b"GCOL":
            raise CorruptFileError(f"no heap is at byte {heap}")
        position, end = heap + 16, heap + size
        while position + 16 <= end:
            index, item_size = self._unpack("<H6xQ", position)
            if index == 0:  # the free space behind the last one
                return
            yield index, self._bytes(position + 16, item_size)
            position += 16 + item_size + -item_size % 8
