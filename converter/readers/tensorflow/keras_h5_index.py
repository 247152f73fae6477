"""List the arrays of a Keras .h5 file with h5py; `keras_h5` runs this in a process of its own.

The root lists its layers in the attribute `layer_names`, every layer its arrays in `weight_names`. A list that is too
long for one attribute continues in `weight_names0`, `weight_names1`, ...

Source: Keras 2, `hdf5_format.save_weights_to_hdf5_group`.
"""

from __future__ import annotations

import errno
import itertools
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import h5py
import numpy as np

from converter.errors import CorruptFileError, SourceError, UnsupportedSourceError
from converter.formats.leveldb_table import extend_crc32c
from effdet_torch.file_format import CHECKSUMS_KEY, METADATA_KEY

_LAYERS, _WEIGHTS = "layer_names", "weight_names"
_WHOLE_MODEL = "model_weights"  # where `model.save` puts what `save_weights` puts into the root
_TOP_LEVEL = "top_level_model_weights"
_KERAS_3 = {"layers", "vars", "_layer_checkpoint_dependencies"}
_FAULTS = (OSError, KeyError, RuntimeError, ValueError, TypeError, MemoryError)  # what h5py raises for damage

_OF_THE_MACHINE = (errno.EMFILE, errno.ENFILE, errno.EACCES, errno.EIO)  # no fault of the file

Place = tuple[str, tuple[int, ...], bool, int]


def index(path: Path, out: BinaryIO) -> dict[str, Any]:
    """List all arrays, and copy those whose values NumPy cannot map.

    Args:
        path: the file.
        out: where the copies go.

    Returns:
        `metadata`: what this project wrote into the file, as JSON, or None. `arrays`: rows of layer, name, dtype,
        shape, whether the values were copied, where they begin, in the file or in the copies, and their CRC-32C, or
        None if the file has none.

    Raises:
        CorruptFileError: The file is damaged or cut off.
        UnsupportedSourceError: It is not a Keras 2 weights file, or holds arrays that cannot be converted.
        SourceError: There is no space for the copies.
    """
    try:
        file = h5py.File(path, "r", locking=False)  # the end of the process closes it
        texts = _texts(file, METADATA_KEY)
        metadata = None if texts is None else "".join(texts)
        if _checksums(file, 1)[0] not in (None, extend_crc32c(0, (metadata or "").encode())):
            raise CorruptFileError(f"{METADATA_KEY} does not match its checksum (CRC-32C)")
        return {"metadata": metadata, "arrays": list(_Index(file, out).rows())}
    except _FAULTS as error:
        raise _as_source_error(error) from error


class _Index:
    def __init__(self, file: Any, out: BinaryIO) -> None:
        self._file, self._out = file, out
        self._number, self._end = h5py.h5o.get_info(file.id).fileno, file.id.get_filesize()
        self._types: list[tuple[Any, np.dtype[np.generic], bool]] = []

    def rows(self) -> Iterator[tuple[Any, ...]]:
        """Yield the rows that `index` returns."""
        root = self._file
        if (layers := _list(root, _LAYERS)) is None and _WHOLE_MODEL in root:
            root = root[_WHOLE_MODEL]
            layers = _list(root, _LAYERS)
        if layers is None:
            raise UnsupportedSourceError(_not_keras_2(set(root)))
        for layer in [*layers, *({_TOP_LEVEL} & set(root))]:
            group = root[layer]
            names = _list(group, _WEIGHTS) or []
            for name, checksum in zip(names, _checksums(group, len(names)), strict=True):
                yield layer, name, *self._named_place(group, name), checksum

    def _named_place(self, group: Any, name: str) -> Place:
        try:
            return self._place(h5py.h5d.open(group.id, name.encode()))
        except (SourceError, *_FAULTS) as error:
            raise _as_source_error(error, f"{name}: ") from error

    def _place(self, array: Any) -> Place:
        """Return dtype, shape, whether the values were copied, and where they begin."""
        (dtype, is_native), shape, offset = self._dtype(array), array.shape, array.get_offset()
        if shape is None:
            raise UnsupportedSourceError("it holds nothing; expected values")
        if h5py.h5o.get_info(array).fileno != self._number:
            raise UnsupportedSourceError("it is a link into another file; expected the array itself")
        size = math.prod(shape) * dtype.itemsize
        if size == 0:
            return dtype.str, shape, False, 0
        if offset is None:
            _require_values(array, shape)
            return dtype.str, shape, True, self._copy(array, shape, dtype)
        stored = array.get_storage_size()
        if offset + stored > self._end or (is_native and stored != size):
            raise CorruptFileError(f"{stored} bytes at byte {offset} of {self._end}; its shape {shape} needs {size}")
        return dtype.str, shape, not is_native, offset if is_native else self._copy(array, shape, dtype)

    def _copy(self, array: Any, shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> int:
        values, start = np.empty(shape, dtype), self._out.tell()
        try:
            array.read(h5py.h5s.ALL, h5py.h5s.ALL, values)
        except OSError:
            _require_filters(array)
            raise
        try:
            self._out.write(values.tobytes())
        except OSError as error:
            raise SourceError(f"its values cannot be written to a temporary file: {error.strerror}") from error
        return start

    def _dtype(self, array: Any) -> tuple[np.dtype[np.generic], bool]:
        """Return what h5py reads an array as, and whether the values are stored in this way."""
        stored = array.get_type()
        for known, dtype, is_native in self._types:
            if known == stored:
                return dtype, is_native
        dtype = stored.dtype
        if dtype.kind not in "fiu" or dtype.itemsize > 8:
            raise UnsupportedSourceError(
                f"its values have the type {'text' if dtype.kind == 'O' else dtype}; expected float or integer numbers"
            )
        self._types.append((stored, dtype, stored == h5py.h5t.py_create(dtype)))
        return self._types[-1][1:]


def _require_values(array: Any, shape: tuple[int, ...]) -> None:
    """Check that all values are in this file: HDF5 reads what was never written as zeros.

    Raises:
        UnsupportedSourceError: They are not.
    """
    created = array.get_create_plist()
    if (layout := created.get_layout()) == h5py.h5d.CHUNKED:
        chunks = math.prod(-(-size // chunk) for size, chunk in zip(shape, created.get_chunk(), strict=True))
        if (found := array.get_num_chunks()) != chunks:
            raise UnsupportedSourceError(f"only {found} of its {chunks} chunks were written")
    elif layout != h5py.h5d.COMPACT:
        raise UnsupportedSourceError("its values were never written, or are in another file")


def _require_filters(array: Any) -> None:
    """Check that h5py can decompress the values.

    Raises:
        UnsupportedSourceError: It needs a plug-in.
    """
    created = array.get_create_plist()
    for number in range(created.get_nfilters()):
        code, _, _, name = created.get_filter(number)
        if not h5py.h5z.filter_avail(code):
            raise UnsupportedSourceError(
                f"compressed with the HDF5 filter {code} ({name.decode()}), which is not installed; write it with gzip"
            )


def _list(group: Any, name: str) -> list[str] | None:
    """Return a list that may be split over several attributes; None if it does not exist."""
    if (texts := _texts(group, name)) is not None:
        return texts
    parts = (_texts(group, f"{name}{number}") for number in itertools.count())
    return [text for part in itertools.takewhile(lambda part: part is not None, parts) for text in part or ()] or None


def _checksums(group: Any, count: int) -> list[int | None]:
    """Return the CRC-32C of every array of a layer, as this project writes them; None for each if there are none."""
    if CHECKSUMS_KEY not in group.attrs:
        return [None] * count
    found: list[int | None] = np.ravel(group.attrs[CHECKSUMS_KEY]).tolist()
    if len(found) != count or not all(isinstance(item, int) for item in found):
        raise CorruptFileError(f"the attribute {CHECKSUMS_KEY!r} does not hold {count} numbers")
    return found


def _texts(group: Any, name: str) -> list[str] | None:
    """Return the texts of an attribute; None if it does not exist."""
    if name not in group.attrs:
        return None
    items = np.ravel(group.attrs[name]).tolist()
    if not all(isinstance(item, (bytes, str)) for item in items):
        raise CorruptFileError(f"the attribute {name!r} does not hold texts")
    # h5py accepts texts of varying length that are not UTF-8.
    return [(item.encode() if isinstance(item, str) else item).decode() for item in items]


def _as_source_error(error: Exception, prefix: str = "") -> SourceError:
    if isinstance(error, SourceError):
        return type(error)(f"{prefix}{error}")
    if isinstance(error, OSError) and error.errno in _OF_THE_MACHINE:
        return SourceError(f"{prefix}{error.strerror}")
    text = str(error.args[0] if isinstance(error, KeyError) else error)  # str() of a KeyError adds quotation marks
    if cut := re.search(r"truncated file: eof = (\d+),.*stored_eof = (\d+)", text):
        text = f"it is cut off at {cut[1]} of {cut[2]} bytes"
    if inner := re.fullmatch(r"Unable to .*? \((.*)\)", text):
        text = inner[1]
    return CorruptFileError(f"{prefix}{text or type(error).__name__}")


def _not_keras_2(groups: set[str]) -> str:
    if groups & _KERAS_3:
        return (
            "weights of Keras 3, which are stored by place in the model, without names of variables; save the model "
            "with tf-keras (Keras 2) as .h5, or use its checkpoint"
        )
    held = ", ".join(sorted(groups)[:5]) or "nothing"
    return f"but no Keras weights (no attribute {_LAYERS!r}; it holds {held})"
