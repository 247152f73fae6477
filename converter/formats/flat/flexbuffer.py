"""FlexBuffers: the numbers of one flat map, which is how TensorFlow Lite stores the options of a custom operation.

Source: FlatBuffers documentation, "FlexBuffers".
"""

from __future__ import annotations

import struct

from converter.errors import CorruptFileError

MAX_OPTIONS = 1000
_MAP = 9
# Type of a value -> the notation of `struct` for its width in bytes. Inline: 1 to 3, and 26; indirect: 6 to 8.
_INTEGER, _UNSIGNED, _FLOAT = (
    {1: "<b", 2: "<h", 4: "<i", 8: "<q"},
    {1: "<B", 2: "<H", 4: "<I", 8: "<Q"},
    {
        2: "<e",
        4: "<f",
        8: "<d",
    },
)
_INLINE = {1: _INTEGER, 2: _UNSIGNED, 3: _FLOAT, 26: _UNSIGNED}
_INDIRECT = {6: _INTEGER, 7: _UNSIGNED, 8: _FLOAT}

Number = int | float


def read_numbers(data: bytes) -> dict[str, Number]:
    """Return {name: value} of the numbers and switches in a map; other values are left out.

    Raises:
        CorruptFileError: The bytes are no map, or one of its parts lies outside of them.
    """
    if len(data) < 3:
        raise CorruptFileError(f"options of {len(data)} bytes; expected a map")
    root_bytes, packed = data[-1], data[-2]
    if packed >> 2 != _MAP or root_bytes not in _UNSIGNED:
        raise CorruptFileError("options that are not a map")
    width = 1 << (packed & 3)
    values = _target(data, len(data) - 2 - root_bytes, root_bytes)
    count = int(_number(data, values - width, _UNSIGNED[width]))
    if count > MAX_OPTIONS:
        raise CorruptFileError(f"options with {count} values; expected at most {MAX_OPTIONS}")
    keys = _target(data, values - 3 * width, width)
    key_bytes = int(_number(data, values - 2 * width, _UNSIGNED[width]))
    if key_bytes not in _UNSIGNED:
        raise CorruptFileError("options whose names are damaged")
    found = {}
    for index in range(count):
        kind = int(_number(data, values + count * width + index, "<B"))
        value = _value(data, values + index * width, width, kind)
        if value is not None:
            found[_key(data, _target(data, keys + index * key_bytes, key_bytes))] = value
    return found


def _value(data: bytes, position: int, width: int, packed: int) -> Number | None:
    kind = packed >> 2
    if kind in _INDIRECT:
        position, width = _target(data, position, width), 1 << (packed & 3)
    forms = _INLINE.get(kind) or _INDIRECT.get(kind) or {}
    return _number(data, position, forms[width]) if width in forms else None


def _target(data: bytes, position: int, width: int) -> int:
    """Return where an offset leads: backwards."""
    return position - int(_number(data, position, _UNSIGNED[width]))


def _key(data: bytes, position: int) -> str:
    end = data.find(b"\0", position, position + 256) if position >= 0 else -1
    if end < 0:
        raise CorruptFileError("options with a name that does not end")
    return data[position:end].decode("utf-8", "backslashreplace")


def _number(data: bytes, position: int, form: str) -> Number:
    if not 0 <= position <= len(data) - struct.calcsize(form):
        raise CorruptFileError(f"options with a part at byte {position}, outside of their {len(data)} bytes")
    return struct.unpack_from(form, data, position)[0]  # type: ignore[no-any-return]
