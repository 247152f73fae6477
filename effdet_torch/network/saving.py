"""Save a model in the form of a converted file, so that `load_model` and all commands take it."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Callable, Mapping, Sequence, Set
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor, nn

from effdet_torch import __version__
from effdet_torch.checks import require_type
from effdet_torch.config import EfficientDetConfig
from effdet_torch.errors import ConfigError, UsageError, listed
from effdet_torch.file_format import (
    CHECKSUMS_KEY,
    FORMAT_VERSION,
    METADATA_KEY,
    PARENT,
    SAVED,
    SAVED_BY,
    TRAINING,
    UNTRAINED,
    WHOLE_NETWORK,
    untrained_stated,
)
from effdet_torch.network.model import EfficientDet
from effdet_torch.outputs.atomic import replacing

Writer = Callable[[IO[bytes], dict[str, Tensor], dict[str, Any]], None]
INHERITED = ("source", "view", "table", UNTRAINED)  # what is true of a converted file's values, and only of these
PARTS = {
    "backbone": "the backbone",
    "fpn": "the BiFPN",
    "class_net": "the class head",
    "box_net": "the box head",
    "seg_head": "the segmentation head",
}
HEADS = frozenset({"class_net", "box_net", "seg_head"})
LAST = {head: f"the last convolution of {PARTS[head]}" for head in HEADS}
SEEN = {WHOLE_NETWORK, *PARTS.values()}  # in the values themselves, so that the metadata need not be believed
# What metadata state -> the heads whose last layers it is about.
ABOUT: Mapping[str, Set[str]] = {
    **{PARTS[name]: {name} & HEADS for name in PARTS},
    **{LAST[head]: {head} for head in HEADS},
    WHOLE_NETWORK: HEADS,
    "class and box predictions": {"class_net", "box_net"},  # of a feature vector, see `mappings`
}
# What may have happened to values that no training has changed.
ROUNDINGS = ((), (torch.float16,), (torch.bfloat16,), (torch.float16, torch.bfloat16), (torch.bfloat16, torch.float16))
EVIDENCE = ("config_origins", "assumed")  # about the settings, which training leaves as they are


def save_model(model: EfficientDet, path: str | Path, training: Mapping[str, Any] | None = None) -> None:
    """Write a model with its config, completely or not at all; `load_model` gives it back.

    The metadata say that the file was saved, not converted: its values may have been trained since, so what
    `effdet-convert` recorded of a source is kept under "parent" and nowhere else. Parts that still hold initial values
    are named, see `untrained_parts`.

    Args:
        model: from `create_model` or `load_model`, trained or not, on any device; it is not changed.
        path: a `.pth`, `.pt` or `.safetensors` file; an existing one is replaced.
        training: how the values were trained, plain values for the metadata. Settings that the training did not change
            keep their evidence; the metadata of an earlier training go under "parent".

    Raises:
        UsageError: The suffix is another, the model's tensors do not fit its config, or an argument is of another type.
        OutputError: The file cannot be written.
    """
    require_type(model, EfficientDet, "model", "an EfficientDet, which create_model and load_model return")
    require_type(path, (str, os.PathLike), "path", "the path of the file to write")
    path = Path(path)
    if path.suffix not in WRITERS:
        raise UsageError(f"{path} does not end in {' or '.join(WRITERS)}; choose such a name")
    tensors = {key: tensor.detach().cpu().contiguous() for key, tensor in model.state_dict().items()}
    _require_own(model, tensors)
    with replacing(path) as stream:
        WRITERS[path.suffix](stream, tensors, saved_metadata(model, training))


def saved_metadata(model: EfficientDet, training: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the metadata of a saved model: plain values."""
    config, before = model.config.to_dict(), model.metadata
    evidence: dict[str, Any] = {"config_origins": dict.fromkeys(config, SAVED), "assumed": {}}
    if before and training is not None:
        evidence = _evidence_after_training(before, config)
    elif before:  # what its file does not record, or a config that was changed since, must not look like evidence
        evidence = {name: before[name] for name in EVIDENCE if name in before and _states(before, model.config)}
    parts = untrained_parts(model) if training is None else []
    inherited = [name for name in INHERITED if name in before and not (parts and name == UNTRAINED)]
    parent = {name: before[name] for name in inherited} or before.get(PARENT)
    if TRAINING in before:
        parent = {**(parent or {}), TRAINING: before[TRAINING]}
    return {
        "format_version": FORMAT_VERSION,
        "tool": {"name": SAVED_BY, "version": __version__},
        "variant": model.config.name,
        "config": config,
        **evidence,
        **({UNTRAINED: parts} if parts else {}),
        **({PARENT: parent} if parent else {}),
        **({TRAINING: dict(training)} if training is not None else {}),
        "redundant_bias": "kept" if model.config.redundant_bias else "folded",
    }


def untrained_parts(model: EfficientDet) -> list[str]:
    """Return which parts of a model hold initial values.

    These are modules whose batch norms have the weights that they are made with, and what the metadata state, as long
    as the last layers of the heads, which every training changes, hold what they held then.
    """
    modules = {name: module for name in PARTS if (module := getattr(model, name)) is not None}
    fresh = {name for name, module in modules.items() if _is_fresh(module)}
    if len(fresh) == len(modules):
        return [WHOLE_NETWORK]
    found = {PARTS[name]: None for name in modules if name in fresh}
    heads = [name for name in modules if name in HEADS]
    kept = {head for head, digests in model.untrained_digests.items() if _digest(model, head) in digests}
    for part in untrained_stated(model.metadata):
        about = ABOUT.get(part, set(heads))
        if kept >= about and part not in SEEN:
            found[part] = None
        elif part in ABOUT:
            found |= {LAST[head]: None for head in heads if head in about & kept}
    return [part for part in found if part not in {LAST.get(name) for name in fresh}]


def predictions_digests(model: EfficientDet) -> dict[str, frozenset[str]]:
    """Return {head: checksums of the values of its last layers, as they are and rounded to other types}."""
    heads = [head for head in sorted(HEADS) if getattr(model, head) is not None]
    return {head: frozenset(_digest(model, head, types) for types in ROUNDINGS) for head in heads}


def _digest(model: EfficientDet, head: str, types: Sequence[torch.dtype] = ()) -> str:
    """Return a checksum of the last layers of a head, whatever device they are on, after a round trip through types."""
    digest = 0
    for tensor in getattr(model, head).predict.state_dict().values():
        values = tensor.detach().cpu()
        for dtype in types:
            values = values.to(dtype)
        digest = zlib.crc32(values.double().numpy().tobytes(), digest)
    return f"{digest:08x}"


def _is_fresh(module: nn.Module) -> bool:
    """Whether all batch norms of a module have the weights that they are made with.

    Their statistics do not count: they move without any training, with every batch in train mode.
    """
    norms = [part for part in module.modules() if isinstance(part, nn.BatchNorm2d)]
    return bool(norms) and all(bool((norm.weight == 1).all() and (norm.bias == 0).all()) for norm in norms)


def _evidence_after_training(before: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the evidence for a config of which a training has changed some settings: these are the saved model's."""
    earlier = before.get("config", {})
    changed = {name for name, value in config.items() if name not in earlier or earlier[name] != value}
    evidence = dict[str, Any]()
    if isinstance(origins := before.get("config_origins"), Mapping):
        evidence["config_origins"] = {**origins, **dict.fromkeys(changed, SAVED)}
    if isinstance(assumed := before.get("assumed"), Mapping):
        evidence["assumed"] = {name: value for name, value in assumed.items() if name not in changed}
    return evidence


def _states(metadata: Mapping[str, Any], config: EfficientDetConfig) -> bool:
    try:
        return EfficientDetConfig.from_dict(metadata["config"]) == config
    except (ConfigError, KeyError):
        return False


def _require_own(model: EfficientDet, tensors: Mapping[str, Tensor]) -> None:
    """Refuse a model that was changed so that `load_model` could not build it again."""
    with torch.device("meta"):
        expected = {key: tensor.shape for key, tensor in EfficientDet(model.config).state_dict().items()}
    found = {key: tensor.shape for key, tensor in tensors.items()}
    if different := [key for key in expected | found if expected.get(key) != found.get(key)]:
        raise UsageError(
            f"the model was changed since it was built: {len(different)} tensors do not fit its config "
            f"({model.config.name}): {listed(different)}; save its state_dict with torch.save instead"
        )


def _write_pth(stream: IO[bytes], tensors: dict[str, Tensor], metadata: dict[str, Any]) -> None:
    save_tensors({"state_dict": tensors, "metadata": metadata}, stream)


def save_tensors(content: Any, stream: IO[bytes]) -> None:
    """Write with `torch.save`; an interruption stays one, which PyTorch turns into an error about its own archive."""
    try:
        torch.save(content, stream)
    except RuntimeError as error:
        if isinstance(error.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from error
        raise


def _write_safetensors(stream: IO[bytes], tensors: dict[str, Tensor], metadata: dict[str, Any]) -> None:
    from crc32c import crc32c  # late: a slow import
    from safetensors.torch import save

    texts = {METADATA_KEY: json.dumps(metadata)}
    contents = {key: tensor.reshape(-1).view(torch.uint8).numpy() for key, tensor in tensors.items()}
    digits = {key: f"{crc32c(content):08x}" for key, content in contents.items()}
    digits[METADATA_KEY] = f"{crc32c(texts[METADATA_KEY].encode()):08x}"
    stream.write(save(tensors, {"format": "pt", **texts, CHECKSUMS_KEY: json.dumps(digits)}))


WRITERS: Mapping[str, Writer] = {".pth": _write_pth, ".pt": _write_pth, ".safetensors": _write_safetensors}
