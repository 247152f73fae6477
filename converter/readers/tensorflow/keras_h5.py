"""Keras weights in HDF5 (`save_weights("model.h5")`, `save("model.h5")`): arrays under their TF1 names, in any order.

libhdf5 can hang or crash on a damaged file, so that h5py runs apart, see `keras_h5_index`. It only lists where the
values are; they are mapped here. HDF5 has no checksum over values in what Keras writes: damage there goes unnoticed.
What this project writes has some.
"""

from __future__ import annotations

import math
import mmap
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from converter.errors import CorruptFileError, SourceError, UnsupportedSourceError
from converter.formats.apart import read_apart
from converter.formats.leveldb_table import extend_crc32c
from converter.identify.naming import undo_counters
from converter.identify.own_metadata import parse_metadata, with_metadata
from converter.source import OPTIMIZER_STATE, OTHER_COPY, STEP_COUNT, SourceFacts, VariableInfo, VariableSource

_ONE_COPY = "a Keras .h5 file holds one copy of every variable and does not say whether it is the averages"
_LOST = (OTHER_COPY, OPTIMIZER_STATE, STEP_COUNT)
_OUTPUT = ":0"  # TensorFlow's first output of an operation, which ends the name of a variable


class _Array(NamedTuple):
    """Dtype and shape of an array, the bytes that hold its values, where they begin, and their CRC-32C if stored."""

    dtype: np.dtype[np.generic]
    shape: tuple[int, ...]
    holder: mmap.mmap
    offset: int
    checksum: int | None


class KerasH5(VariableSource):
    """The variables of a Keras weights file; values are views of the mapped file."""

    def __init__(self, path: Path) -> None:
        """Find all arrays.

        Raises:
            CorruptFileError: The file is damaged or cut off.
            UnsupportedSourceError: It is not a Keras 2 weights file, or it holds arrays that cannot be read.
            OSError: It cannot be opened.
        """
        folder = path.absolute().parent
        facts = SourceFacts("Keras .h5 file", path, folder, raw_reason=_ONE_COPY, unrecoverable=_LOST)
        try:
            found, copies = read_apart(_index, path, may_fork=not _has_open_files())
        except CorruptFileError as error:
            raise CorruptFileError(f"{path}: damaged HDF5 file: {error}. Download or copy it again.") from error
        except SourceError as error:
            raise type(error)(f"{path}: HDF5 file, {error}.") from error
        with path.open("rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        rows = _named(path, found["arrays"])
        dtypes = {dtype: np.dtype(dtype) for dtype, *_ in rows.values()}
        names = {dtype: dtype.name for dtype in dtypes.values()}  # NumPy builds it anew every time
        self._arrays, variables = {}, {}
        for name, given in undo_counters(rows).items():
            dtype, shape, is_copied, offset, checksum = rows[given]
            self._arrays[name] = _Array(dtypes[dtype], tuple(shape), copies if is_copied else mapped, offset, checksum)
            variables[name] = VariableInfo(names[dtypes[dtype]], tuple(shape))
        if found["metadata"] is not None:
            facts = with_metadata(facts, parse_metadata(path, found["metadata"]))
        is_checked = all(array.checksum is not None for array in self._arrays.values())
        super().__init__(replace(facts, checksums="CRC-32C" if is_checked else ""), variables)

    def read(self, name: str) -> NDArray[Any]:
        """Return one variable, as a view of the file where NumPy can use the values as they are stored."""
        dtype, shape, holder, offset, checksum = self._arrays[name]
        values: NDArray[Any] = np.frombuffer(holder, dtype, math.prod(shape), offset)
        if checksum not in (None, extend_crc32c(0, values.view(np.uint8).data)):
            raise CorruptFileError(
                f"{self.path}: {name}: the values do not match their checksum (CRC-32C). Download or copy it again."
            )
        if not values.flags.aligned:
            values = values.copy()
        return values.astype(dtype.newbyteorder("="), copy=False).reshape(shape)

    def checksum(self, name: str) -> int | None:
        """Return the CRC-32C of a variable's values where this project wrote the file."""
        return self._arrays[name].checksum


def _has_open_files() -> bool:
    """Whether this process has HDF5 files open; a fork would share libhdf5's table of them."""
    h5py: Any = sys.modules.get("h5py")
    return h5py is not None and h5py.h5f.get_obj_count(h5py.h5f.OBJ_ALL, h5py.h5f.OBJ_FILE) > 0


def _index(path: Path, out: BinaryIO) -> dict[str, Any]:
    from converter.readers.tensorflow.keras_h5_index import index  # late: only the other process loads h5py

    return index(path, out)


def _named(path: Path, rows: list[Any]) -> dict[str, list[Any]]:
    """Return {TF1 name: what is known of the array}; the layer goes before a name that several layers use.

    Raises:
        UnsupportedSourceError: A layer lists a name twice.
    """
    names = [row[1].removesuffix(_OUTPUT) for row in rows]
    used = Counter(names)
    named = {
        name if used[name] == 1 else f"{layer}/{name}": place
        for name, (layer, _, *place) in zip(names, rows, strict=True)
    }
    if len(named) != len(rows):
        twice = next(name for name, count in used.items() if count > 1)
        raise UnsupportedSourceError(f"{path}: HDF5 file, two arrays are called {twice!r}; expected one model.")
    return named
