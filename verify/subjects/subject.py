"""What is verified: a converted file, and the checkpoint that it was made from, brought to the same plan."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from converter.conversion import Preparation, prepare
from converter.identify.families import BACKBONE, DETECTOR
from converter.identify.hparams import stated_hparams
from converter.identify.settings import DECIDED_BY_SHAPES
from converter.plan.family import Settings
from converter.source import VariableSource
from effdet_torch.architecture import BACKBONES
from effdet_torch.config import is_backbone, variants_with
from effdet_torch.errors import ModelFileError
from effdet_torch.network.checkpoint import build_model, fill_backbone, read_model_file
from effdet_torch.network.model import EfficientDet, create_model
from verify.errors import ParityError


def load_converted(path: Path) -> EfficientDet:
    """Load a converted detector, or a backbone into a detector of which nothing else is then compared."""
    tensors, metadata = read_model_file(path)
    if not is_backbone(metadata):
        return build_model(path, tensors, metadata, allow_nonfinite=True)  # the audit names the values
    name = metadata["config"]["backbone"]
    variants = variants_with(name)
    if not variants:
        raise ModelFileError(f"{path} holds the backbone {name!r}; known are {', '.join(BACKBONES)}.")
    model = fill_backbone(create_model(variants[0]), path, tensors, metadata, allow_nonfinite=True)
    model.metadata = metadata
    return model.eval()


def prepare_reference(model: EfficientDet, source: VariableSource) -> Preparation:
    """Account for a checkpoint as the one that a model was made from.

    Raises:
        ParityError: The checkpoint holds another network, or another number of classes or anchors.
    """
    view = model.metadata.get("view", {}).get("name")
    stated = stated_hparams(model.config, model.metadata.get("config_origins", {}))
    preparation = prepare(source, None, view, stated, model.config.redundant_bias)
    is_alone = preparation.family is BACKBONE
    if is_alone != is_backbone(model.metadata):
        what = "a backbone alone" if is_alone else "a whole detector"
        raise ParityError(f"{source.path} is not the checkpoint of this model: it holds {what}, the model does not")
    names = ("backbone",) if is_alone else (*DECIDED_BY_SHAPES, "fusion", "activation")
    for name in names:
        found, expected = getattr(preparation.settings.config, name), getattr(model.config, name)
        if found != expected:
            raise ParityError(
                f"{source.path} is not the checkpoint of this model: its {name} is {found}, the model's {expected} "
                f"(checkpoint: {preparation.settings.config.name}, model: {model.config.name})"
            )
    if is_alone:  # compared as a part of the detector that carries it
        plan = DETECTOR.plan(model.config).within(model.config.backbone)
        return replace(preparation, settings=Settings(model.config), plan=plan)
    anchors = preparation.settings.config.anchors_per_location, model.config.anchors_per_location
    if anchors[0] != anchors[1]:
        raise ParityError(f"{source.path} has {anchors[0]} anchors per location, the model {anchors[1]}")
    return preparation
