"""Read converted files: `.pth` (a torch.save of {"state_dict", "metadata"}) and `.safetensors`.

A safetensors file holds the metadata as JSON in its entry "effdet_convert". The format is recognised by content, not by
suffix. Files come from strangers: nothing in them is executed.
"""

from __future__ import annotations

import os
import pickle
import re
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from effdet_torch.checks import require_type
from effdet_torch.errors import ModelFileError, listed
from effdet_torch.file_format import (
    CHECKSUMS_KEY,
    EXPORTED_SUFFIXES,
    METADATA_KEY,
    TFLITE_SUFFIX,
    is_exported,
    newer_format,
)
from effdet_torch.hugging_face import WEIGHTS, local_file
from effdet_torch.untrusted.documents import parse_json
from effdet_torch.untrusted.files import ARCHIVE_ERRORS, MAX_MODEL_BYTES, reason_of, require_regular

ZIP_MAGIC = b"PK\x03\x04"
PICKLE_MAGIC = b"\x80"  # torch.save before 1.6
TFLITE_MAGIC = b"TFL3"  # behind the first four bytes
CONVERT_FIRST = "Convert it, or the TensorFlow checkpoint, with effdet-convert first."
SAVE = "effdet_torch.save_model saves a model of this package; effdet-convert converts a state_dict or a checkpoint."


def read_model_file(path: str | Path, check_values: bool = False) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read the tensors and the metadata of a converted file.

    The tensors own their memory, so the file may be replaced while they are in use.

    Args:
        path: a `.pth` or `.safetensors` file written by effdet-convert, or `hf:user/repository[@revision]`.
        check_values: compare all values with the checksums in the file, if it has any.

    Returns:
        state_dict: {key: tensor on the CPU}.
        metadata: plain numbers, strings, lists and dictionaries; "config" holds `EfficientDetConfig.to_dict()`.

    Raises:
        ModelFileError: The file is missing, damaged, unsafe or another tool's, or values do not match their checksums.
        UsageError: `path` is not a path.
    """
    require_type(path, (str, os.PathLike), "path", "the path of a converted file")
    path = local_file(path)
    try:
        require_regular(path, MAX_MODEL_BYTES)
        with path.open("rb") as file:
            start = file.read(9)
    except IsADirectoryError as error:
        inside = path / WEIGHTS  # as huggingface_hub saves a model
        next_step = f"Pass {inside}." if inside.is_file() else CONVERT_FIRST
        raise ModelFileError(f"{path} is a folder, not a model file. {next_step}") from error
    except OSError as error:
        raise ModelFileError(f"cannot read the model file {path}: {reason_of(error)}.") from error
    if is_exported(path):
        raise ModelFileError(
            f"{path} is exported already: Predictor, effdet-detect and effdet-verify take it as it is. For anything "
            "else pass the converted file (.pth or .safetensors) that it was exported from."
        )
    if start[8:] == b"{":  # eight bytes of header length, then the header as JSON
        tensors, metadata = _read_safetensors(path, check_values)
    elif start.startswith((ZIP_MAGIC, PICKLE_MAGIC)):
        tensors, metadata = _read_torch(path, start, check_values)
    elif start[4:8] == TFLITE_MAGIC:
        raise _tflite(path)
    else:
        found = f"begins with {start[:4]!r}" if start else "is empty"
        raise ModelFileError(
            f"{path} is not a model file: it is neither .pth nor .safetensors, it {found}. Pass a file that "
            "effdet-convert wrote; an exported file must have its own suffix "
            f"({', '.join(EXPORTED_SUFFIXES)}; of OpenVINO's two files pass the .xml)."
        )
    if not isinstance(metadata, dict) or not isinstance(metadata.get("config"), dict):
        raise ModelFileError(f"the metadata of {path} has no model config. {SAVE}")
    if reason := newer_format(metadata):
        raise ModelFileError(f"{path} {reason}")
    return tensors, metadata


def _tflite(path: Path) -> ModelFileError:
    """Return the error for a TensorFlow Lite file that has another suffix, or no metadata of ours."""
    if path.suffix.lower() != TFLITE_SUFFIX:
        reason = f"by its content; rename it to {path.with_suffix(TFLITE_SUFFIX).name}"
    else:
        reason = (
            "without the metadata of effdet-export: from another tool, or cut off. Convert it first (effdet-convert "
            f"{path} {path.with_suffix('.pth').name}) and pass the result, or copy it again"
        )
    return ModelFileError(f"{path} is a TensorFlow Lite file {reason}")


def _read_torch(path: Path, start: bytes, check_values: bool) -> tuple[dict[str, Tensor], Any]:
    try:
        if start.startswith(ZIP_MAGIC) and not zipfile.is_zipfile(path):
            raise ModelFileError(f"{path} is truncated: its end, which lists the contents, is missing. Copy it again.")
    except zipfile.BadZipFile as error:
        raise ModelFileError(f"{path} is damaged: {error}. Copy it again.") from error
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelFileError(_describe_refusal(path, str(error))) from error
    except Exception as error:  # damaged bytes can end in any error of the zip reader or the unpickler
        raise ModelFileError(f"{path} is damaged, or not written by torch.save: {_first_line(error)}") from error
    if not isinstance(content, dict) or not {"state_dict", "metadata"} <= content.keys():
        keys = listed(map(str, content)) if isinstance(content, dict) else f"a {type(content).__name__}"
        raise ModelFileError(
            f"{path} has no metadata: it was written with --layout effdet, or by another tool. Expected the keys "
            f"state_dict and metadata, found {keys}. {SAVE}"
        )
    tensors = content["state_dict"]
    keyed = isinstance(tensors, dict) and all(isinstance(key, str) for key in tensors)
    if not keyed or not all(isinstance(tensor, Tensor) for tensor in tensors.values()):
        raise ModelFileError(f"the state_dict of {path} is not a dictionary of tensors. {CONVERT_FIRST}")
    if check_values and start.startswith(ZIP_MAGIC):
        _require_sound_archive(path, list(tensors))
    return dict(tensors), content["metadata"]


def _read_safetensors(path: Path, check_values: bool) -> tuple[dict[str, Tensor], Any]:
    try:
        with safe_open(path, framework="pt") as file:
            entries = file.metadata() or {}
            # A copy: what safetensors returns is a view into the file, and dies with it.
            tensors = {key: file.get_tensor(key).clone() for key in file.keys()}  # noqa: SIM118, not a dictionary
    except (SafetensorError, OSError) as error:
        raise ModelFileError(f"{path} is truncated or damaged: {_first_line(error)}. Copy it again.") from error
    if METADATA_KEY not in entries:
        raise ModelFileError(
            f"{path} was not written by effdet-convert: it has no metadata entry {METADATA_KEY!r}. Its keys are "
            f"{listed(tensors)}. {CONVERT_FIRST}"
        )
    if check_values and CHECKSUMS_KEY in entries:
        _require_sound_tensors(path, tensors, entries)
    try:
        return tensors, parse_json(entries[METADATA_KEY])
    except ValueError as error:
        raise ModelFileError(f"the metadata entry {METADATA_KEY!r} of {path} is not JSON: {error}.") from error


def _describe_refusal(path: Path, reason: str) -> str:
    found = re.search(r"GLOBAL ([\w.]+)", reason)
    what = f"the Python object {found[1]}" if found else "something else, or is damaged"
    return (
        f"refused to load {path}: a model file holds tensors, numbers and strings only, and this one holds {what}. "
        f"Loading it could run any code. {CONVERT_FIRST}"
    )


def _require_sound_archive(path: Path, keys: Sequence[str]) -> None:
    """Compare every record of a `.pth` with its CRC-32, which `torch.load` ignores.

    Raises:
        ModelFileError: One of them does not match.
    """
    place = "the list of its contents"
    try:
        with zipfile.ZipFile(path) as archive:
            records = [record for record in archive.infolist() if record.CRC]  # without checksums there are zeros
            names = _record_names([record.filename for record in archive.infolist()], keys)
            for record in records:
                place = names.get(record.filename, record.filename)
                with archive.open(record) as content:
                    while content.read(1 << 20):
                        pass
    except ARCHIVE_ERRORS as error:
        raise _damaged(path, place) from error


def _record_names(records: Sequence[str], keys: Sequence[str]) -> dict[str, str]:
    """Return {record: key of its tensor}; {} where tensors share records, because numbers then say nothing."""
    numbered = [record for record in records if re.fullmatch(r"[^/]*/data/\d+", record)]
    if len(numbered) != len(keys):
        return {}
    return {record: keys[n] for record in numbered if (n := int(record.rpartition("/")[2])) < len(keys)}


def _require_sound_tensors(path: Path, tensors: Mapping[str, Tensor], entries: Mapping[str, str]) -> None:
    """Compare every tensor of a `.safetensors`, and its metadata, with their CRC-32C.

    Raises:
        ModelFileError: One of them does not match.
    """
    from crc32c import crc32c  # late: a slow import

    try:
        expected = {key: int(text, 16) for key, text in parse_json(entries[CHECKSUMS_KEY]).items()}
    except (AttributeError, TypeError, ValueError) as error:
        raise _damaged(path, CHECKSUMS_KEY) from error
    found = {key: crc32c(tensor.reshape(-1).view(torch.uint8).numpy()) for key, tensor in tensors.items()}
    found[METADATA_KEY] = crc32c(entries[METADATA_KEY].encode())
    for key, checksum in expected.items():
        if found.get(key, checksum) != checksum:
            raise _damaged(path, key)


def _damaged(path: Path, key: str) -> ModelFileError:
    return ModelFileError(f"{path} is damaged: {key} does not match its checksum. Copy it again, or convert again.")


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]
