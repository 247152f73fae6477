"""Build a model from a converted file, or fill a backbone from one."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from effdet_torch.checks import require_type
from effdet_torch.config import EfficientDetConfig, is_backbone
from effdet_torch.errors import ConfigError, ModelFileError, UsageError, listed
from effdet_torch.network.model import EfficientDet
from effdet_torch.network.model_file import read_model_file
from effdet_torch.values import ValueCheck, described

LOG = logging.getLogger("effdet")
VARIANCE = ".running_var"
BATCH_COUNTER = ".num_batches_tracked"  # TensorFlow has no such counter, so a file may lack it


def load_model(
    path: str | Path,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    allow_nonfinite: bool = False,
    check_values: bool = False,
) -> EfficientDet:
    """Build the model that a converted file describes and load its weights, strictly.

    Args:
        path: a `.pth` or `.safetensors` file written by effdet-convert.
        device: where the model goes.
        dtype: floating-point type of the model; None keeps the file's.
        allow_nonfinite: load values that no network can use: NaN, infinite ones, negative variances, only zeros.
        check_values: see `read_model_file`.

    Returns:
        The model in eval mode; `.config` and `.metadata` say what it is and where it came from.

    Raises:
        ModelFileError: The file is missing, damaged, unsafe or another tool's, its tensors do not fit its config, or
            they hold values that no network can use.
        UsageError: An argument is of another type, or names no device.
    """
    require_type(dtype, (torch.dtype, type(None)), "dtype", "a torch.dtype such as torch.float16")
    if dtype is not None and not dtype.is_floating_point:
        raise UsageError(f"dtype is {dtype}; expected a floating-point type such as torch.float16")
    try:
        device = torch.empty(0, device=torch.device(device)).device
    except (RuntimeError, TypeError, AssertionError) as error:  # a PyTorch without CUDA asserts
        reason = next(iter(str(error).splitlines()), "")
        raise ConfigError(
            f"the device {device!r} does not exist; expected cpu, cuda, cuda:1, ... ({reason})"
        ) from error
    found = read_model_file(path, check_values)
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
    fits = f"config ({config.name}, {config.class_counts}, redundant_bias {config.redundant_bias})"
    _require_fit(path, fits, expected, tensors)
    if not allow_nonfinite:
        _require_usable(path, tensors)
    placed = {key: tensor.to(device, dtype if tensor.is_floating_point() else None) for key, tensor in tensors.items()}
    model.load_state_dict(placed, strict=True, assign=True)
    model.metadata = metadata
    LOG.info("loaded %s: %s, %d tensors", path, config.name, len(tensors))
    return model.eval()


def load_backbone(model: EfficientDet, path: str | Path, check_values: bool = False) -> EfficientDet:
    """Load the weights of a converted backbone checkpoint, strictly, for training a detector on top of it.

    Args:
        model: for example `create_model("d0", num_classes=20)`; only its backbone changes, in place.
        path: a `.pth` or `.safetensors` file that effdet-convert wrote from an EfficientNet classifier's checkpoint.
        check_values: see `read_model_file`.

    Returns:
        The model.

    Raises:
        ModelFileError: The file is missing, damaged, unsafe or another tool's, or holds another backbone or a detector.
        UsageError: An argument is of another type.
    """
    require_type(model, EfficientDet, "model", "an EfficientDet, which create_model returns")
    return fill_backbone(model, Path(path), *read_model_file(path, check_values))


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
    if model.config.backbone_style != "tensorflow":
        raise ModelFileError(
            f"{path} holds {found} as TensorFlow computes it; {model.config.name} has another padding and batch norm "
            "epsilon: these weights do not fit it. Choose an official variant."
        )
    wanted = model.backbone.state_dict()
    tensors = {**_counters(wanted), **tensors}
    _require_fit(path, f"backbone {expected}", wanted, tensors)
    if not allow_nonfinite:
        _require_usable(path, tensors)
    model.backbone.load_state_dict(tensors, strict=True)
    return model


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
