"""FlatBuffers without generated classes: tables of a mapped file, by the number of a field, every offset checked.

A file of some bytes could send a reader in circles or through the same gigabyte a million times. So nothing here calls
itself, and all tables of one file share an allowance of values that may be read.

Source: FlatBuffers documentation, "FlatBuffer Internals".
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converter.errors import CorruptFileError

# A network of 10,000 operations needs some 500,000; values of constants are viewed, not read, and do not count.
MAX_VALUES = 8_000_000
MAX_TEXT_BYTES = 1 << 16


class Buffer:
    """The bytes of one file, and how many values may still be read from it.

    Args:
        data: all of the file.
    """

    def __init__(self, data: memoryview) -> None:
        self.data = data
        self._left = MAX_VALUES

    def root(self) -> Table:
        """Return the outermost table.

        Raises:
            CorruptFileError: It lies outside of the file.
        """
        return Table(self, self.follow(0))

    def spend(self, count: int) -> None:
        """Count values that are read.

        Raises:
            CorruptFileError: These are more than any network has.
        """
        self._left -= count
        if self._left < 0:
            raise CorruptFileError(f"its tables hold more than {MAX_VALUES} values, which no network needs")

    def number(self, form: str, position: int) -> int | float:
        """Return a number, in the notation of `struct`.

        Raises:
            CorruptFileError: It lies outside of the file.
        """
        if not 0 <= position <= len(self.data) - struct.calcsize(form):
            raise CorruptFileError(f"a number at byte {position} lies outside of its {len(self.data)} bytes")
        return struct.unpack_from(form, self.data, position)[0]  # type: ignore[no-any-return]

    def follow(self, position: int) -> int:
        """Return where the offset at a position leads."""
        return position + int(self.number("<I", position))

    def span(self, position: int, item_bytes: int) -> tuple[int, int]:
        """Return where the items of a vector begin, and their number.

        Raises:
            CorruptFileError: They do not lie in the file.
        """
        count, start = int(self.number("<I", position)), position + 4
        if count * item_bytes > len(self.data) - start:
            raise CorruptFileError(
                f"a list at byte {position} has {count} items of {item_bytes} bytes, more than the file holds"
            )
        return start, count


class Table:
    """One table. Fields are counted from 0; one that the file leaves out has its default.

    Args:
        buffer: of the file.
        position: of the table in it.

    Raises:
        CorruptFileError: The table lies outside of the file.
    """

    def __init__(self, buffer: Buffer, position: int) -> None:
        self._buffer, self._position = buffer, position
        self._fields = position - int(buffer.number("<i", position))
        self._count = max(0, (int(buffer.number("<H", self._fields)) - 4) // 2)
        buffer.spend(1)

    def number(self, field: int, form: str, default: float = 0) -> int | float:
        """Return a number, in the notation of `struct`."""
        position = self._place(field)
        return default if position is None else self._buffer.number(form, position)

    def integer(self, field: int, form: str, default: int = 0) -> int:
        """Return a whole number."""
        return int(self.number(field, form, default))

    def table(self, field: int) -> Table | None:
        """Return a table inside this one; None where there is none."""
        position = self._place(field)
        return None if position is None else Table(self._buffer, self._buffer.follow(position))

    def tables(self, field: int) -> Iterator[Table]:
        """Yield the tables of a list."""
        position = self._place(field)
        if position is not None:
            start, count = self._buffer.span(self._buffer.follow(position), 4)
            self._buffer.spend(count)
            for place in range(start, start + 4 * count, 4):
                yield Table(self._buffer, self._buffer.follow(place))

    def bytes(self, field: int) -> memoryview:
        """Return a view of a list of bytes."""
        position = self._place(field)
        if position is None:
            return memoryview(b"")
        start, count = self._buffer.span(self._buffer.follow(position), 1)
        return self._buffer.data[start : start + count]

    def numbers(self, field: int, dtype: str) -> NDArray[Any]:
        """Return a list of numbers, in the notation of NumPy: (N,), a view."""
        position = self._place(field)
        if position is None:
            return np.zeros(0, dtype)
        start, count = self._buffer.span(self._buffer.follow(position), np.dtype(dtype).itemsize)
        self._buffer.spend(count)
        return np.frombuffer(self._buffer.data, dtype, count, start)

    def text(self, field: int) -> str:
        """Return a text; bytes that are not UTF-8 are shown as escapes.

        Raises:
            CorruptFileError: It is longer than any name.
        """
        data = self.bytes(field)
        if len(data) > MAX_TEXT_BYTES:
            raise CorruptFileError(f"a name has {len(data)} bytes; expected at most {MAX_TEXT_BYTES}")
        self._buffer.spend(len(data) // 64)
        return bytes(data).decode("utf-8", "backslashreplace")

    def _place(self, field: int) -> int | None:
        """Return where a field is; None where the file leaves it out."""
        if field >= self._count:
            return None
        offset = int(self._buffer.number("<H", self._fields + 4 + 2 * field))
        return self._position + offset if offset else None
