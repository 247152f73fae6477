"""All families of networks that can be converted, and the choice of the one that a source belongs to.

A new family is a table in `mappings/` and an entry of `FAMILIES`.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from converter.errors import UnsupportedSourceError
from converter.hparams.fields import not_official
from converter.identify.architecture import BackboneArchitecture, DetectorArchitecture
from converter.identify.effdet_package import backbone_notes, detector_notes, no_tensorflow_original
from converter.identify.object_detection_api import network as api_network
from converter.identify.object_detection_api import settings as api_settings
from converter.identify.recognition import Probe, look_alike, recognize
from converter.identify.settings import settle_backbone, settle_detector
from converter.plan.axes import backbone_axes, backbone_constants, detector_axes, detector_constants
from converter.plan.family import Architecture, Family
from converter.plan.grammar import load_table
from converter.plan.ops import Shape
from converter.source import VariableInfo, VariableSource
from effdet_torch.architecture.backbone import BACKBONES, PACKAGE_BACKBONES
from effdet_torch.config import BackboneConfig, EfficientDetConfig


def _not_tensorflow(config: EfficientDetConfig) -> str:
    return no_tensorflow_original(config) or not_official(config)


DETECTOR = Family(
    name="EfficientDet",
    supported="the EfficientDets D0 to D7x and Lite0 to Lite4 of google/automl, with any classes, anchors, levels and "
    "heads, and those of the effdet package",
    load=partial(load_table, "efficientdet"),
    axes=detector_axes,
    constants=detector_constants,
    questions=(
        "backbone",
        "detects",
        "segments",
        "fpn_channels",
        "fpn_cells",
        "head_repeats",
        "min_level",
        "num_levels",
        "upsamplings",
        "seg_classes",
        "num_nodes",
        "weighted",
        "channel_weights",
        "separable_convs",
        "resampling_convs",
        "resampling_bns",
        "node_biases",
        "class_channels",
        "box_channels",
    ),
    choices={"backbone": (*BACKBONES, *PACKAGE_BACKBONES)},
    architecture=DetectorArchitecture.from_answers,
    settle=settle_detector,
    open_questions=("min_level", "node_biases"),
    questions_of_parts=("class_channels", "box_channels"),
    package_notes=detector_notes,
    not_tensorflow=_not_tensorflow,
)
BACKBONE = Family(
    name="EfficientNet backbone",
    supported="the official EfficientNets B0 to B8, L2 and Lite0 to Lite4 (as backbones)",
    load=partial(load_table, "efficientnet"),
    axes=backbone_axes,
    constants=backbone_constants,
    questions=("backbone",),
    choices={"backbone": BACKBONES},
    architecture=BackboneArchitecture.from_answers,
    settle=settle_backbone,
    package_notes=backbone_notes,
)
OBJECT_DETECTION_API = Family(
    name="EfficientDet of the TF Object Detection API",
    supported="the EfficientDets D0 to D7 of the TF Object Detection API (checkpoints and SavedModels)",
    load=partial(load_table, "object_detection_api"),
    axes=api_network.api_axes,
    constants=api_network.api_constants,
    questions=(
        "extractor",
        "fpn_channels",
        "fpn_cells",
        "head_repeats",
        "min_level",
        "num_levels",
        "weighted",
        "class_channels",
        "box_channels",
    ),
    choices={"extractor": api_network.EXTRACTORS},
    architecture=api_network.architecture,
    settle=api_settings.settle,
    package_notes=detector_notes,
    axes_of_source=api_settings.axes,
    not_tensorflow=_not_tensorflow,
)
FAMILIES: tuple[Family, ...] = (DETECTOR, OBJECT_DETECTION_API, BACKBONE)


def family_of(source: VariableSource) -> tuple[Family, Architecture]:
    """Return the family that a source belongs to, and what its names and shapes show; see `recognize`."""
    return recognize(source, FAMILIES)


def recognize_state_dict(shapes: Mapping[str, Shape]) -> DetectorArchitecture:
    """Return the architecture of a detector's state_dict, by its keys without a prefix and the shapes of its tensors.

    Raises:
        UnsupportedSourceError: The tensors are not those of an EfficientDet.
    """
    table = DETECTOR.table
    probe = Probe({name: VariableInfo("", shape) for name, shape in shapes.items()}, ("{variable}",), {}, separator=".")
    answers = probe.answers(table.state_dict)
    if absent := [name for name, answer in answers.items() if answer is None]:
        expected = probe.expected(table.state_dict[absent[0]])
        raise UnsupportedSourceError(f"not the state_dict of an EfficientDet: expected {expected}")
    backbone = _closest_backbone(shapes)
    if backbone is None:
        raise UnsupportedSourceError(
            "the tensors of this state_dict's backbone fit no EfficientNet: expected a backbone of D0 to D7x, Lite0 to "
            "Lite4, or of an EfficientDet of the effdet package, with timm's names"
            + "".join(f". It looks like {what}. {next_step}" for what, next_step in filter(None, [look_alike(shapes)]))
        )
    return DetectorArchitecture.from_answers({**answers, "backbone": backbone})


def _closest_backbone(shapes: Mapping[str, Shape]) -> str | None:
    """Return the backbone with the most tensors that a state_dict has minus those that it lacks; None if none has more.

    It need not have all of them: every tensor of b0 is also one of b1, and the accounting names what is missing.
    """
    begin = f"{DETECTOR.table.included_module}."
    found = {key.removeprefix(begin): shape for key, shape in shapes.items() if key.startswith(begin)}
    fits: dict[str, int] = {}
    for name in (*BACKBONES, *PACKAGE_BACKBONES):
        targets = BACKBONE.plan(BackboneConfig(name)).targets
        expected = {key: entry.target_shape for key, entry in targets.items() if entry.sources}
        fitting = sum(found.get(key) == shape for key, shape in expected.items())
        fits[name] = 2 * fitting - len(expected)
        if fitting == len(expected) and found.keys() <= targets.keys():
            break  # it explains every tensor: the plans of the others would only take time
    best = max(fits, key=lambda name: fits[name])
    return best if fits[best] > 0 else None
