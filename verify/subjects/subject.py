"""What is verified: a converted file, and the checkpoint that it was made from, brought to the same plan."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from converter.conversion import Preparation
from converter.errors import ViewError
from converter.hparams.fields import PACKAGE_SETTINGS
from converter.identify.architecture import DetectorArchitecture, weights_of
from converter.identify.families import BACKBONE, DETECTOR, family_of
from converter.plan.copies import WORDS, View, select_view, stored_names
from converter.plan.engine import account
from converter.plan.expand import Plan
from converter.plan.family import Architecture, Settings
from converter.readers.absent_parts import with_initial_values
from converter.source import VariableSource
from effdet_torch.architecture.backbone import BACKBONES
from effdet_torch.config import EfficientDetConfig, is_backbone, variants_with
from effdet_torch.errors import ModelFileError
from effdet_torch.file_format import PARENT, TRAINING, config_origins
from effdet_torch.network.checkpoint import build_model, create_model, fill_backbone
from effdet_torch.network.model import EfficientDet
from effdet_torch.network.model_file import read_model_file
from verify.errors import ParityError


def is_converted(path: Path | str) -> bool:
    """Return whether a path is that of a converted file, rather than a checkpoint."""
    return Path(path).suffix.lower() in CONVERTED and Path(path).is_file()


def load_converted(path: Path) -> EfficientDet:
    """Load a converted detector, or a backbone into a detector of which nothing else is then compared."""
    tensors, metadata = read_model_file(path, check_values=True)
    if not is_backbone(metadata):
        return build_model(path, tensors, metadata, allow_nonfinite=True)  # the audit names the values
    name = metadata["config"]["backbone"]
    variants = variants_with(name)
    if not variants:
        raise ModelFileError(f"{path} holds the backbone {name!r}; known are {', '.join(BACKBONES)}.")
    model = fill_backbone(create_model(variants[0]), path, tensors, metadata, allow_nonfinite=True)
    model.metadata = metadata
    return model.eval()


CONVERTED = (".pth", ".safetensors")  # suffixes of converted files


class Described(Protocol):
    """A model, or an engine that runs its file."""

    @property
    def config(self) -> EfficientDetConfig: ...  # noqa: D102

    @property
    def metadata(self) -> Mapping[str, Any]: ...  # noqa: D102


def prepare_reference(model: Described, source: VariableSource) -> Preparation:
    """Account for a checkpoint as the one that a model was made from.

    The plan is the model's. What names and shapes do not show of the checkpoint, the references find out by themselves.

    Raises:
        ParityError: The checkpoint holds another network, or another number of classes or anchors.
    """
    family, found = family_of(source)
    is_alone = family is BACKBONE
    if is_alone != is_backbone(model.metadata):
        what = "a backbone alone" if is_alone else "a whole detector"
        raise ParityError(f"{source.path} is not the checkpoint of this model: it holds {what}, the model does not")
    config = model.config
    # A backbone is compared as a part of the detector that carries it.
    plan = DETECTOR.plan(config).within(config.backbone) if is_alone else family.plan(config, source)
    _require_same(found, config, source.path)
    source = with_initial_values(source, plan)
    _require_same_package(source, config)
    view = _same_view(source, plan, model)
    accounting = account(source.variables, plan, view)
    accounting.require_complete(f"{source.path} is not a complete {config.name}")
    return Preparation(source, family, Settings(config, config_origins(model.metadata)), plan, view, accounting)


def _same_view(source: VariableSource, plan: Plan, model: Described) -> View:
    """Return the copy that a model was made from; a source whose only copy it does not name gives that one."""
    # A trained model says which copy it holds; one that was only saved began as the copy that its parent was made from.
    parent, trained = model.metadata.get(PARENT, {}), model.metadata.get(TRAINING, {})
    made_from = model.metadata.get("view", parent.get("view", {})).get("name")
    wanted = trained.get("weights", made_from)
    averages = stored_names(plan, "ema").values()
    is_nameless = source.facts.raw_reason and not any(name in source.variables for name in averages)
    try:
        return select_view(source, plan, None if is_nameless else wanted)
    except ViewError as error:
        copy = WORDS.get(wanted, "raw values or averages")
        raise ParityError(
            f"{source.path} is not the checkpoint of this model: the model holds the {copy}, and the checkpoint "
            "does not, or not all of them; give the checkpoint that the model was converted from"
        ) from error


def _require_same_package(source: VariableSource, config: EfficientDetConfig) -> None:
    """Check that a source states no other settings of the `effdet` package, which no tensor shows."""
    for origin, hparams in source.facts.given:
        for name in PACKAGE_SETTINGS:
            if (stated := hparams.get(name)) not in (None, getattr(config, name)):
                raise ParityError(
                    f"{source.path} is not the checkpoint of this model: {origin} says {name} {stated}, and the model "
                    f"has {getattr(config, name)} (model: {config.name})"
                )


def _require_same(found: Architecture, config: EfficientDetConfig, path: Path) -> None:
    """Check that names and shapes show the architecture of a config."""
    expected: dict[str, Any] = {"backbone": config.backbone}
    if isinstance(found, DetectorArchitecture):
        found = found.from_level(config.min_level)
        shown = (*found.fields(), *(["anchors_per_location"] if found.anchors_per_location is not None else []))
        expected = {
            **{name: getattr(config, name) for name in shown},
            "fusion_weights": weights_of(config.fusion),
            "num_nodes": len(config.cell),
        }
    for name, value in expected.items():
        if (shown := getattr(found, name)) != value:
            raise ParityError(
                f"{path} is not the checkpoint of this model: its {name} is {shown}, the model's {value} "
                f"(checkpoint: {found.describe()}; model: {config.name})"
            )
