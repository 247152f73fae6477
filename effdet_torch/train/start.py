"""What a training starts from: a trained detector, a backbone, or random values; with a head for the data's classes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from effdet_torch.config import EfficientDetConfig, get_config, is_backbone
from effdet_torch.data.training.class_map import ClassMap
from effdet_torch.errors import ConfigError, EffdetError, ModelFileError
from effdet_torch.file_format import MODEL_SUFFIXES, untrained
from effdet_torch.hugging_face import local_file
from effdet_torch.inference.labels import own_names
from effdet_torch.network.checkpoint import build_model, class_kernels, fill_backbone
from effdet_torch.network.model import EfficientDet
from effdet_torch.network.model_file import read_model_file
from effdet_torch.train.recipe import Recipe
from effdet_torch.train.request import Copy, OpenSource, TrainRequest
from effdet_torch.train.updates.ema import averaged

SCRATCH = "scratch"
DEFAULT_VARIANT = "d0"
DROP_PATH = 0.2  # of all official backbones but b0


@dataclass(frozen=True)
class Start:
    """A model before its training.

    Attributes:
        model: in training mode, float32, on the CPU.
        averages: {key: tensor} where the moving averages start from other values than the model's.
        notes: what was taken, and what was drawn at random.
    """

    model: EfficientDet
    averages: Mapping[str, Tensor] | None
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Source:
    """What a training starts from, read but not yet fitted to its data.

    Attributes:
        name: as the user named it.
        config: of the detector to train.
        detector: the detector, or None: its values are drawn at random.
        averages: the averages of its weights, where the official recipe starts both copies from their own.
        backbone: (path, tensors, metadata) of a backbone to put into it.
        metadata: of the detector's file.
    """

    name: str
    config: EfficientDetConfig
    detector: EfficientDet | None = None
    averages: EfficientDet | None = None
    backbone: tuple[Path, Mapping[str, Tensor], Mapping[str, Any]] | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @property
    def names(self) -> Mapping[int, str]:
        """{label: name} of the classes that the head predicts."""
        return own_names(self.config)

    @property
    def origin(self) -> dict[str, Any]:
        """What a resumed training needs to know of it, as plain values; see `resumed_source`."""
        return {"name": self.name, "config": self.config.to_dict(), "metadata": dict(self.metadata)}


def read_source(request: TrainRequest, both_copies: bool, open_source: OpenSource | None) -> Source:
    """Read what a training starts from.

    Args:
        request: `source` is a converted or saved file, `hf:user/repository[@revision]`, "scratch", or what
            `open_source` takes; None is the official file of `variant`. `variant` must agree with a detector. With
            `recipe.freeze_bn`, biases in front of batch norms are kept, because they would be trained.
        both_copies: start the averages from those of a TensorFlow checkpoint, and the weights from the raw ones.
        open_source: converts other sources; None: there are none.

    Raises:
        ConfigError: The variant does not exist, or the source is of another one, or has no use for `hparams`.
        ModelFileError: The file cannot be used.
    """
    variant, keeps_biases = request.variant, request.recipe.freeze_bn
    name = request.source or variant or DEFAULT_VARIANT
    own = _own_file(local_file(name))
    if request.hparams is not None and (name == SCRATCH or own is not None):
        raise ConfigError(
            f"--hparams describes a checkpoint without a config.yaml, but {name} needs no settings; leave it out, and "
            "pass --variant or --image-size for another network"
        )
    if name == SCRATCH:
        return Source(name, get_config(variant or DEFAULT_VARIANT, redundant_bias=keeps_biases))
    if own is not None:
        return _checked(_source(name, Path(name), *own, variant), variant)
    if open_source is None:
        raise ModelFileError(f"{name} is not a converted file; convert it with effdet-convert first")

    def opened(copy: Copy | None) -> Source:
        with open_source(
            name, weights=copy, hparams=request.hparams, keep_redundant_bias=keeps_biases
        ) as path:  # its tensors own their memory
            return _checked(_source(name, path, *read_model_file(path), variant), variant)

    if not both_copies:
        return opened(None)
    try:
        source, averages = opened("raw"), opened("ema")
    except EffdetError:  # it has one copy only
        return opened(None)
    return replace(source, averages=averages.detector)


def resumed_source(origin: Mapping[str, Any]) -> Source:
    """Return the source of a run that goes on: what is known of it, without its values, which the run's state has."""
    config = EfficientDetConfig.from_dict(origin["config"])
    return Source(origin["name"], config, metadata=origin["metadata"])


def start_from(source: Source, classes: ClassMap, image_size: tuple[int, int] | None, recipe: Recipe) -> Start:
    """Build the model to train: the source's values, but a head for the classes of the data.

    Random values are those of `recipe.seed`.

    Args:
        source: from `read_source`.
        classes: of the data.
        image_size: (height, width) in pixels; None keeps the source's.
        recipe: supplies `drop_path` and `seed`.

    Raises:
        ConfigError: The image size is too small, or names and classes do not fit.
    """
    config = replace(
        source.config,
        num_classes=classes.num_classes,
        label_map=source.config.label_map if classes.head_kept else tuple(classes.label_map.items()),
        image_size=image_size or source.config.image_size,
    )
    torch.manual_seed(recipe.seed)
    drop_path = official_drop_path(config) if recipe.drop_path is None else recipe.drop_path
    model = EfficientDet(config, drop_path_rate=drop_path)
    model.metadata = dict(source.metadata)
    notes = [f"starts from {_described(source)}"]
    if text := untrained(source.metadata):
        notes.append(text)
    averages = None
    if source.backbone is not None:
        fill_backbone(model, *source.backbone)
    if source.detector is not None:
        fresh = frozenset[str]() if classes.head_kept else class_kernels(model)
        _fill(model, source.detector.state_dict(), fresh)
        if source.averages is not None:
            averages = _without(averaged(source.averages), fresh)
        if fresh:
            notes.append(
                f"class head: {classes.num_classes} classes in place of {source.config.num_classes} "
                f"({classes.reason}); its last convolution starts from random values, the rest of the model is kept"
            )
    if recipe.freeze_bn and not config.redundant_bias:
        notes.append(
            "batch norms are frozen, and the model's biases in front of them are folded: the official trainer would "
            "train these; to keep them, start from the TensorFlow checkpoint itself"
        )
    return Start(model.train(), averages, tuple(notes))


def official_drop_path(config: EfficientDetConfig) -> float:
    """Return the official stochastic depth of the backbone: 0 for names with "b0", else 0.2; thus 0.2 for lite0."""
    return 0.0 if "b0" in config.backbone else DROP_PATH


def _own_file(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Read a converted or saved file; None if it is something else, which `open_source` may know."""
    if path.suffix not in MODEL_SUFFIXES or not path.is_file():
        return None
    try:
        return read_model_file(path, check_values=True)
    except ModelFileError:
        return None


def _source(name: str, path: Path, tensors: dict[str, Tensor], metadata: dict[str, Any], variant: str | None) -> Source:
    if not is_backbone(metadata):
        detector = build_model(path, tensors, metadata, dtype=torch.float32)
        return Source(name, detector.config, detector, metadata=metadata)
    if variant is None:
        raise ConfigError(f"{name} is a backbone ({metadata['config']['backbone']}); choose a detector with --variant")
    return Source(name, get_config(variant), backbone=(path, tensors, metadata))


def _checked(source: Source, variant: str | None) -> Source:
    if source.config.segments:
        raise ConfigError(f"{source.name} has a segmentation head, which cannot be trained here; choose a detector")
    if variant is not None and get_config(variant).name != source.config.name:
        raise ConfigError(f"{source.name} is {source.config.name}, not {variant}; leave --variant out")
    return source


def _described(source: Source) -> str:
    if source.detector is not None:
        copies = ": raw weights, and their averages" if source.averages is not None else ""
        return f"{source.name} ({source.config.name}, {source.config.num_classes} classes){copies}"
    if source.backbone is not None:
        return f"the backbone {source.name}; BiFPN and heads from random values"
    return f"random values ({source.config.name})"


def _fill(model: EfficientDet, tensors: Mapping[str, Tensor], fresh: frozenset[str]) -> None:
    model.load_state_dict({**model.state_dict(), **_without(tensors, fresh)}, strict=True)


def _without(tensors: Mapping[str, Tensor], fresh: frozenset[str]) -> dict[str, Tensor]:
    return {key: tensor for key, tensor in tensors.items() if key not in fresh}
