"""TensorFlow V2 checkpoints ("TensorBundle"): PREFIX.index and PREFIX.data-KKKKK-of-NNNNN, read without TensorFlow."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from converter.errors import CorruptFileError, MissingFileError, UnsupportedSourceError
from converter.formats.leveldb_table import extend_crc32c, mask_crc32c, unmask_crc32c
from converter.formats.protobuf import read_varint
from converter.readers.tensorflow.bundle_index import STORED_DTYPES, BundleEntry, Slice, read_index
from converter.source import (
    AVERAGE,
    OPTIMIZER,
    OPTIMIZER_STATE,
    OTHER_COPY,
    STEP,
    STEP_COUNT,
    SourceFacts,
    VariableInfo,
    VariableSource,
)
from effdet_torch.untrusted.files import map_file

if TYPE_CHECKING:
    from converter.formats.archive import ExtractedArchive

OBJECT_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"  # a key of TF2 checkpoints only
_MAX_INDEX_BYTES = 64 << 20
_MAX_RANK = 32  # NumPy's limit before version 2


class TensorBundle(VariableSource):
    """The variables of one checkpoint, parsed from its index; data files are mapped when first read.

    Attributes:
        prefix: common to the names of all its files: "folder/model.ckpt-780".
    """

    def __init__(
        self, prefix: Path | str, *, path: Path | str | None = None, archive: ExtractedArchive | None = None
    ) -> None:
        """Parse the index file; the data files need not exist.

        Args:
            prefix: of the checkpoint's files.
            path: what the user named; by default the prefix.
            archive: the origin of the files; the bundle closes it.

        Raises:
            MissingFileError: There is no index file.
            CorruptFileError: The index is damaged.
            UnsupportedSourceError: The bundle is big-endian, or of a newer version.
        """
        self.prefix = Path(prefix)
        self._archive = archive
        self._shards: dict[int, memoryview] = {}
        self._index_path = Path(f"{prefix}.index")
        with self._naming(self._index_path):
            self._index = read_index(_read_file(self._index_path))
        variables = {name: entry.info for name, entry in self._index.entries.items()}
        kind = "TF2 object checkpoint" if OBJECT_GRAPH in variables else "TF1 checkpoint"
        lost = (*([] if AVERAGE in slots_of(variables) else [OTHER_COPY]), *lost_of_training(variables))
        folder = self.prefix.parent
        facts = SourceFacts(kind, Path(path or prefix), folder, checksums="CRC-32C", unrecoverable=lost)
        super().__init__(facts, variables)

    def read(self, name: str) -> NDArray[Any]:
        """Return one variable, checked against its checksum.

        Raises:
            KeyError: No variable has this name.
            MissingFileError: The data file does not exist.
            CorruptFileError: The bytes are damaged or cut off.
            UnsupportedSourceError: The dtype has no NumPy counterpart ("resource", "variant", quantised types).
        """
        entry = self._index.entries[name]
        slices = self._index.slices.get(name)
        if slices is None:
            return self._read_entry(name, entry)
        values = [self._read_entry(name, part.entry) for part in slices]
        with self._naming(self._index_path, name):
            return _join(entry.info.shape, slices, values)

    def checksum(self, name: str) -> int | None:
        """Return the CRC-32C of a variable's values from the index; None for a partitioned variable."""
        entry = self._index.entries[name]
        return None if name in self._index.slices else unmask_crc32c(entry.crc32c)

    def files(self) -> tuple[Path, ...]:
        """Return the archive if there is one, else the index and the existing data files."""
        if self._archive is not None:
            return (self._archive.path,)
        slices = (part.entry for parts in self._index.slices.values() for part in parts)
        shards = {entry.shard for entry in (*self._index.entries.values(), *slices) if not entry.slice_protos}
        paths = (self._shard_path(shard) for shard in sorted(shards))
        return (self._index_path, *(path for path in paths if path.is_file()))

    def close(self) -> None:
        """Release the data files; arrays that were read stay valid."""
        self._shards.clear()
        if self._archive is not None:
            self._archive.close()

    def _read_entry(self, name: str, entry: BundleEntry) -> NDArray[Any]:
        with self._naming(self._shard_path(entry.shard), name):
            if len(entry.info.shape) > _MAX_RANK:
                raise UnsupportedSourceError(f"it has {len(entry.info.shape)} axes; at most {_MAX_RANK} can be read")
            data = self._stored_bytes(entry)
            if entry.info.dtype == "string":
                return _decode_strings(bytes(data), entry)
            values = decode_values(data, entry.info)
            _check(mask_crc32c(extend_crc32c(0, data)), entry.crc32c, "the values")
            return values

    def _stored_bytes(self, entry: BundleEntry) -> memoryview:
        """Return a view of an entry's bytes."""
        if entry.shard not in self._shards:
            self._shards[entry.shard] = map_file(self._shard_path(entry.shard))
        shard, end = self._shards[entry.shard], entry.offset + entry.size
        if end > len(shard):
            raise CorruptFileError(
                f"the file has {len(shard)} bytes; expected at least {end} (it is incomplete, or a pointer of git-lfs)"
            )
        return shard[entry.offset : end]

    def _shard_path(self, shard: int) -> Path:
        return Path(f"{self.prefix}.data-{shard:05d}-of-{self._index.shards:05d}")

    @contextmanager
    def _naming(self, path: Path, name: str | None = None) -> Iterator[None]:
        """Add the file's and the variable's name to errors."""
        shown = str(path) if self._archive is None else self._archive.describe(path)
        shown += f": {name}" if name else ""
        try:
            yield
        except CorruptFileError as error:
            raise CorruptFileError(f"{shown}: {error}. The file is damaged: download or copy it again.") from error
        except UnsupportedSourceError as error:
            raise UnsupportedSourceError(f"{shown}: {error}.") from error
        except OSError as error:
            raise MissingFileError(
                f"{shown}: {error.strerror or error}. Keep all files of the checkpoint in one folder: "
                f"{self.prefix.name}.index and {self.prefix.name}.data-*."
            ) from error


def slots_of(names: Collection[str]) -> set[str]:
    """Return the slots that variables have among some names: "Momentum" of X/Momentum beside X."""
    return {slot for variable, _, slot in (name.rpartition("/") for name in names) if variable in names}


def lost_of_training(names: Collection[str]) -> list[str]:
    """Return what a checkpoint with these names lacks of the state of its training."""
    has_state = slots_of(names) - {AVERAGE} or any(name.startswith(f"{OPTIMIZER}/") for name in names)
    return [*([] if has_state else [OPTIMIZER_STATE]), *([] if STEP in names else [STEP_COUNT])]


def _read_file(path: Path) -> bytes:
    if path.stat().st_size > _MAX_INDEX_BYTES:
        raise CorruptFileError(f"it has {path.stat().st_size} bytes; an index has about 100 000")
    return path.read_bytes()


def _check(computed: int, stored: int, what: str) -> None:
    if computed != stored:
        raise CorruptFileError(f"{what} do not match their checksum: stored {stored:#010x}, computed {computed:#010x}")


def decode_values(data: memoryview, info: VariableInfo) -> NDArray[Any]:
    """Return a view of values as TensorFlow stores them, or a copy if NumPy cannot use them in place.

    Raises:
        UnsupportedSourceError: NumPy has no such dtype.
    """
    dtype = STORED_DTYPES.get(info.dtype)
    if dtype is None:
        raise UnsupportedSourceError(f"values of dtype {info.dtype} cannot be read; expected numbers or strings")
    values: NDArray[Any] = np.frombuffer(data, dtype)
    if not values.flags.aligned:  # behind a string; not every library can handle such an array
        values = values.copy()
    values = values.astype(dtype.newbyteorder("="), copy=False)
    if info.dtype == "bfloat16":  # the upper half of a float32
        values = (values.astype(np.uint32) << 16).view(np.float32)
    return values.reshape(info.shape)


def _join(shape: tuple[int, ...], slices: Sequence[Slice], values: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Assemble a partitioned variable; by the index, the slices have as many elements as the tensor."""
    tensor = np.empty(shape, values[0].dtype)
    covered = np.zeros(shape, bool)
    for part, part_values in zip(slices, values, strict=True):
        tensor[part.region] = part_values
        covered[part.region] = True
    if not covered.all():
        raise CorruptFileError("its slices overlap and leave a part of the tensor empty")
    return tensor


def _decode_strings(data: bytes, entry: BundleEntry) -> NDArray[np.object_]:
    """Decode: length of every string as varint, checksum of the lengths, the strings.

    The checksums cover the lengths as four-byte numbers (eight bytes for those that need it), not the varints.
    """
    count = math.prod(entry.info.shape)
    if count > len(data):
        raise CorruptFileError(f"{count} strings do not fit in {len(data)} bytes")
    lengths, position, crc = [], 0, 0
    for _ in range(count):
        length, position = read_varint(data, position, len(data))
        lengths.append(length)
        crc = extend_crc32c(crc, length.to_bytes(4 if length < 1 << 32 else 8, "little"))
    start = position + 4
    _check(mask_crc32c(crc), int.from_bytes(data[position:start], "little"), "the string lengths")
    if start + sum(lengths) != len(data):
        raise CorruptFileError(f"the strings have {sum(lengths)} bytes; expected {len(data) - start}")
    _check(mask_crc32c(extend_crc32c(crc, data[position:])), entry.crc32c, "the strings")
    strings = np.empty(count, object)
    for place, length in enumerate(lengths):
        strings[place] = data[start : start + length]
        start += length
    return strings.reshape(entry.info.shape)
