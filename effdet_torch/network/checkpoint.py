"""Read converted models: `.pth` (a torch.save of {"state_dict", "metadata"}) and `.safetensors`.

A safetensors file holds the metadata as JSON in its entry "effdet_convert". The format is recognised by content, not by
suffix. Files come from strangers: nothing in them is executed.
"""

from __future__ import annotations

import json
import os
import pickle
import re
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from effdet_torch.checks import require_type
from effdet_torch.config import EfficientDetConfig, is_backbone
from effdet_torch.errors import ConfigError, ModelFileError, listed
from effdet_torch.file_format import METADATA_KEY, newer_format
from effdet_torch.network.model import EfficientDet
from effdet_torch.untrusted.files import MAX_MODEL_BYTES, require_regular
from effdet_torch.values import ValueCheck, described

ZIP_MAGIC = b"PK\x03\x04"
PICKLE_MAGIC = b"\x80"  # torch.save before 1.6
VARIANCE = ".running_var"
BATCH_COUNTER = ".num_batches_tracked"  # TensorFlow has no such counter, so a file may lack it
CONVERT_FIRST = "Convert it, or the TensorFlow checkpoint, with effdet-convert first."


def load_model(
    path: str | Path,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    allow_nonfinite: bool = False,
) -> EfficientDet:
    """Build the model that a converted file describes and load its weights, strictly.

    Args:
        path: a `.pth` or `.safetensors` file written by effdet-convert.
        device: where the model goes.
        dtype: floating-point type of the model; None keeps the file's.
        allow_nonfinite: load values that no network can use: NaN, infinite ones, negative variances, only zeros.

    Returns:
        The model in eval mode; `.config` and `.metadata` say what it is and where it came from.

    Raises:
        ModelFileError: The file is missing, damaged, unsafe or another tool's, its tensors do not fit its config, or
            they hold values that no network can use.
        UsageError: An argument is of another type, or names no device.
    """
    require_type(dtype, (torch.dtype, type(None)), "dtype", "a torch.dtype such as torch.float16")
    try:
        device = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ConfigError(f"the device {device!r} does not exist; expected cpu, cuda, cuda:1, ...") from error
    found = read_model_file(path)
    return build_model(Path(path), *found, device=device, dtype=dtype, allow_nonfinite=allow_nonfinite)


def build_model(
    path: Path,
    tensors: Mapping[str, Tensor],
    metadata: dict[str, Any],
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    allow_nonfinite: bool = False,
) -> EfficientDet:
    """Build the model of a file that was read by `read_model_file`; see `load_model`."""
    if is_backbone(metadata):
        raise ModelFileError(
            f"{path} holds only the backbone {metadata['config']['backbone']}: build a detector with create_model, "
            "then fill its backbone with load_backbone."
        )
    try:
        config = EfficientDetConfig.from_dict(metadata["config"])
        with torch.device("meta"):  # shapes only: no time for an initialisation that is overwritten anyway
            model = EfficientDet(config)
    except ConfigError as error:
        raise ModelFileError(f"the model config in {path} does not fit: {error}.") from error
    expected = model.state_dict()
    tensors = {**_counters(expected), **tensors}
    fits = f"config ({config.name}, {config.num_classes} classes, redundant_bias {config.redundant_bias})"
    _require_fit(path, fits, expected, tensors)
    if not allow_nonfinite:
        _require_usable(path, tensors)
    placed = {key: tensor.to(device, dtype if tensor.is_floating_point() else None) for key, tensor in tensors.items()}
    model.load_state_dict(placed, strict=True, assign=True)
    model.metadata = metadata
    return model.eval()


def load_backbone(model: EfficientDet, path: str | Path) -> EfficientDet:
    """Load the weights of a converted backbone checkpoint, strictly, for training a detector on top of it.

    Args:
        model: for example `create_model("d0", num_classes=20)`; only its backbone changes, in place.
        path: a `.pth` or `.safetensors` file that effdet-convert wrote from an EfficientNet classifier's checkpoint.

    Returns:
        The model.

    Raises:
        ModelFileError: The file is missing, damaged, unsafe or another tool's, or holds another backbone or a detector.
        UsageError: An argument is of another type.
    """
    require_type(model, EfficientDet, "model", "an EfficientDet, which create_model returns")
    return fill_backbone(model, Path(path), *read_model_file(path))


def fill_backbone(
    model: EfficientDet,
    path: Path,
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, Any],
    allow_nonfinite: bool = False,
) -> EfficientDet:
    """Fill a backbone from a file that was read by `read_model_file`; see `load_backbone`."""
    if not is_backbone(metadata):
        raise ModelFileError(f"{path} holds a whole detector, not a backbone alone: use load_model.")
    found, expected = metadata["config"]["backbone"], model.config.backbone
    if found != expected:
        raise ModelFileError(f"{path} holds {found}; the backbone of {model.config.name} is {expected}.")
    wanted = model.backbone.state_dict()
    tensors = {**_counters(wanted), **tensors}
    _require_fit(path, f"backbone {expected}", wanted, tensors)
    if not allow_nonfinite:
        _require_usable(path, tensors)
    model.backbone.load_state_dict(tensors, strict=True)
    return model


def read_model_file(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read the tensors and the metadata of a converted file.

    The tensors own their memory, so the file may be replaced while they are in use.

    Args:
        path: a `.pth` or `.safetensors` file written by effdet-convert.

    Returns:
        state_dict: {key: tensor on the CPU}.
        metadata: plain numbers, strings, lists and dictionaries; "config" holds `EfficientDetConfig.to_dict()`.

    Raises:
        ModelFileError: The file is missing, damaged, unsafe or another tool's.
        UsageError: `path` is not a path.
    """
    require_type(path, (str, os.PathLike), "path", "the path of a converted file")
    path = Path(path)
    try:
        require_regular(path, MAX_MODEL_BYTES)
        with path.open("rb") as file:
            start = file.read(9)
    except OSError as error:
        raise ModelFileError(f"cannot read the model file {path}: {error.strerror}.") from error
    if start[8:] == b"{":  # eight bytes of header length, then the header as JSON
        tensors, metadata = _read_safetensors(path)
    elif start.startswith((ZIP_MAGIC, PICKLE_MAGIC)):
        tensors, metadata = _read_torch(path, start)
    else:
        found = f"begins with {start[:4]!r}" if start else "is empty"
        raise ModelFileError(
            f"{path} is not a model file: it is neither .pth nor .safetensors, it {found}. {CONVERT_FIRST}"
        )
    if not isinstance(metadata, dict) or not isinstance(metadata.get("config"), dict):
        raise ModelFileError(f"the metadata of {path} has no model config. {CONVERT_FIRST}")
    if reason := newer_format(metadata):
        raise ModelFileError(f"{path} {reason}")
    return tensors, metadata


def _read_torch(path: Path, start: bytes) -> tuple[dict[str, Tensor], Any]:
    if start.startswith(ZIP_MAGIC) and not zipfile.is_zipfile(path):
        raise ModelFileError(f"{path} is truncated: its end, which lists the contents, is missing. Copy it again.")
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
            f"state_dict and metadata, found {keys}. {CONVERT_FIRST}"
        )
    tensors = content["state_dict"]
    keyed = isinstance(tensors, dict) and all(isinstance(key, str) for key in tensors)
    if not keyed or not all(isinstance(tensor, Tensor) for tensor in tensors.values()):
        raise ModelFileError(f"the state_dict of {path} is not a dictionary of tensors. {CONVERT_FIRST}")
    return dict(tensors), content["metadata"]


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], Any]:
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
    try:
        return tensors, json.loads(entries[METADATA_KEY])
    except (ValueError, RecursionError) as error:
        raise ModelFileError(f"the metadata entry {METADATA_KEY!r} of {path} is not JSON: {error}.") from error


def _describe_refusal(path: Path, reason: str) -> str:
    found = re.search(r"GLOBAL ([\w.]+)", reason)
    what = f"the Python object {found[1]}" if found else "something else, or is damaged"
    return (
        f"refused to load {path}: a model file holds tensors, numbers and strings only, and this one holds {what}. "
        f"Loading it could run any code. {CONVERT_FIRST}"
    )


def _counters(expected: Iterable[str]) -> dict[str, Tensor]:
    return {key: torch.zeros((), dtype=torch.int64) for key in expected if key.endswith(BATCH_COUNTER)}


def _require_fit(path: Path, what: str, expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
    signatures = [{key: _signature(tensor) for key, tensor in tensors.items()} for tensors in (found, expected)]
    both = [(key, signatures[0][key], signatures[1][key]) for key in expected if key in found]
    problems = {
        "missing": [key for key in expected if key not in found],
        "unexpected": [key for key in found if key not in expected],
        "mismatched": [f"{key} is {is_}, expected {wanted}" for key, is_, wanted in both if is_ != wanted],
    }
    if any(problems.values()):
        text = "; ".join(f"{len(keys)} {kind}: {listed(keys)}" for kind, keys in problems.items() if keys)
        raise ModelFileError(
            f"the tensors of {path} do not fit its {what}: {text}. Convert the checkpoint again with effdet-convert."
        )


def _require_usable(path: Path, tensors: Mapping[str, Tensor]) -> None:
    check = ValueCheck()
    for key, tensor in tensors.items():
        if tensor.is_floating_point():  # NumPy has no bfloat16
            values = tensor.float() if tensor.dtype == torch.bfloat16 else tensor
            check.look(key, values.detach().numpy(), is_variance=key.endswith(VARIANCE))
    if faults := check.found():
        raise ModelFileError(
            f"{path} holds {described(faults)}. Convert an earlier checkpoint of this training; "
            "load_model(..., allow_nonfinite=True) loads it as it is."
        )


def _signature(tensor: Tensor) -> str:
    return f"{'floating point' if tensor.is_floating_point() else 'integer'} {tuple(tensor.shape)}"


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]
