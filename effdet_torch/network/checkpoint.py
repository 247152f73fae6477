"""Build a model: untrained, from a converted file, or partly from one."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from effdet_torch.checks import require_type
from effdet_torch.config import EfficientDetConfig, changed_config, get_config, is_backbone
from effdet_torch.errors import ConfigError, ModelFileError, UsageError, listed
from effdet_torch.file_format import UNTRAINED, untrained_stated
from effdet_torch.network.model import EfficientDet
from effdet_torch.network.model_file import read_model_file
from effdet_torch.network.saving import LAST, predictions_digests, untrained_parts
from effdet_torch.values import ValueCheck, described

LOG = logging.getLogger("effdet")
VARIANCE = ".running_var"
CONVERT_AGAIN = "Convert the checkpoint again with effdet-convert."
CLASS_PREDICT = "class_net.predict."
DEPTHWISE = "conv_dw.weight"  # its shape does not depend on the number of classes
BATCH_COUNTER = ".num_batches_tracked"  # TensorFlow has no such counter, so a file may lack it


def create_model(
    variant: str,
    *,
    pretrained: str | Path | None = None,
    num_classes: int | None = None,
    image_size: int | tuple[int, int] | None = None,
    drop_path_rate: float = 0.0,
    **overrides: Any,
) -> EfficientDet:
    """Build an EfficientDet, initialised for training from scratch or with the values of a converted file.

    With `pretrained`, settings that are not given are the file's, and the model is in eval mode, as by `load_model`.
    Where `num_classes` is another than the file's, the last convolution of the class head starts from random values; a
    warning of the logger "effdet" and the metadata say so.

    Args:
        variant: see `get_config`; names of the `effdet` package, such as "tf_efficientdet_d0", are known.
        pretrained: a converted file of this variant, or `hf:user/repository[@revision]` on the Hugging Face Hub.
        num_classes: classes to predict; None takes the file's, or the variant's (90, COCO).
        image_size: (height, width) in pixels or the side of a square; None takes the file's or the variant's.
        drop_path_rate: see `EfficientDet`.
        **overrides: further fields of `EfficientDetConfig`.

    Raises:
        ConfigError: The variant or a field does not exist, a value does not fit, or the file is of another variant.
        ModelFileError: The file cannot be downloaded or used, or its tensors do not fit the settings that were given.
        UsageError: `pretrained` is neither a path nor a name.
    """
    given = {"num_classes": num_classes, "image_size": image_size}
    overrides.update({name: value for name, value in given.items() if value is not None})
    if pretrained is None:
        return EfficientDet(get_config(variant, **overrides), drop_path_rate=drop_path_rate)
    require_type(
        pretrained, (str, os.PathLike), "pretrained", "the path of a converted file, or hf:user/repository on the Hub"
    )
    loaded, expected = load_model(pretrained), get_config(variant).name
    if loaded.config.name != expected:
        raise ConfigError(f"{pretrained} is {loaded.config.name}, not {expected}; pass the file's own variant")
    if num_classes not in (None, loaded.config.num_classes):
        overrides = {"label_map": (), **overrides}  # the file's names are those of its own classes
    model = EfficientDet(changed_config(loaded.config, **overrides), drop_path_rate=drop_path_rate)
    return _fill(model, loaded, str(pretrained)).eval()


def class_kernels(model: EfficientDet) -> frozenset[str]:
    """Return the tensors whose shapes depend on the number of classes: the official trainer draws only these anew."""
    return frozenset(key for key in model.state_dict() if key.startswith(CLASS_PREDICT) and not key.endswith(DEPTHWISE))


def _fill(model: EfficientDet, loaded: EfficientDet, name: str) -> EfficientDet:
    """Give a model the values and the metadata of another one, but for the kernels of other classes."""
    model.metadata, tensors = dict(loaded.metadata), loaded.state_dict()
    if model.config.num_classes != loaded.config.num_classes:
        fresh = class_kernels(model)
        tensors = {key: tensor for key, tensor in tensors.items() if key not in fresh}
        tensors |= {key: tensor for key, tensor in model.state_dict().items() if key in fresh}
        model.metadata[UNTRAINED] = [*untrained_stated(model.metadata), LAST["class_net"]]
        LOG.warning(
            "class head: %d classes in place of %d; its last convolution starts from random values, the rest is that "
            "of %s",
            *(model.config.num_classes, loaded.config.num_classes, name),
        )
    advice = "Leave out the settings that change the network."
    _require_fit(Path(name), "config with the settings that were given", model.state_dict(), tensors, advice)
    model.load_state_dict(tensors, strict=True)
    if UNTRAINED in model.metadata:
        model.untrained_digests = predictions_digests(model)
        model.metadata[UNTRAINED] = untrained_parts(model)  # each once
    return model


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
        path: a `.pth` or `.safetensors` file written by effdet-convert, or `hf:user/repository[@revision]` on the
            Hugging Face Hub.
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
    if UNTRAINED in metadata:
        model.untrained_digests = predictions_digests(model)
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


def _require_fit(
    path: Path, what: str, expected: Mapping[str, Tensor], found: Mapping[str, Tensor], advice: str = CONVERT_AGAIN
) -> None:
    signatures = [{key: _signature(tensor) for key, tensor in tensors.items()} for tensors in (found, expected)]
    both = [(key, signatures[0][key], signatures[1][key]) for key in expected if key in found]
    problems = {
        "missing": [key for key in expected if key not in found],
        "unexpected": [key for key in found if key not in expected],
        "mismatched": [f"{key} is {is_}, expected {wanted}" for key, is_, wanted in both if is_ != wanted],
    }
    if any(problems.values()):
        text = "; ".join(f"{len(keys)} {kind}: {listed(keys)}" for kind, keys in problems.items() if keys)
        raise ModelFileError(f"the tensors of {path} do not fit its {what}: {text}. {advice}")


def value_faults(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Return {name: what is wrong with its values} for the tensors of a network, see `ValueCheck`."""
    check = ValueCheck()
    for key, tensor in tensors.items():
        if tensor.is_floating_point():  # NumPy has no bfloat16
            values = tensor.float() if tensor.dtype == torch.bfloat16 else tensor
            check.look(key, values.detach().cpu().numpy(), is_variance=key.endswith(VARIANCE))
    return check.found()


def _require_usable(path: Path, tensors: Mapping[str, Tensor]) -> None:
    if faults := value_faults(tensors):
        raise ModelFileError(
            f"{path} holds {described(faults)}. Convert an earlier checkpoint of this training; "
            "load_model(..., allow_nonfinite=True) loads it as it is."
        )


def _signature(tensor: Tensor) -> str:
    return f"{'floating point' if tensor.is_floating_point() else 'integer'} {tuple(tensor.shape)}"
