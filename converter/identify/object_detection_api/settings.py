"""Settle a config of the API: by its code, by the `pipeline.config` beside a checkpoint, and by what is usual."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from converter.hparams.given import CONFIG_FILE
from converter.hparams.pipeline import Pipeline, find_pipeline
from converter.identify.architecture import DetectorArchitecture
from converter.identify.evidence import ASSUMED
from converter.identify.object_detection_api.network import BOX_CODER, api_axes, taps
from converter.identify.settings import settle_detector
from converter.plan.expand import Axes
from converter.plan.family import Request, Settings
from converter.source import VariableSource
from effdet_torch.config import VARIANTS, EfficientDetConfig

API = "the TF Object Detection API"
NOTE = f"a network of {API}: images are resized, and detections made, as there"
UNREAD = f"{CONFIG_FILE} is not read: the settings of {API} are in pipeline.config"
# What all eight published pipelines say, where the official hyperparameters are different.
USUAL: Mapping[str, Any] = {
    "anchor_scale": 4.0,
    "nms_configs": {
        "profile": "object-detection-api",
        "method": "hard",
        "iou_thresh": 0.5,
        "score_thresh": 1e-8,
        "max_per_class": 100,
        "max_output_size": 100,
    },
}


def settle(found: DetectorArchitecture, request: Request) -> Settings:
    """Settle the config of a detector of the API; see `settle_detector`.

    Raises:
        ConversionError: The variant or a setting contradicts the checkpoint.
        ConfigError: `pipeline.config` cannot be read, or asks for what is not supported.
    """
    source, pipeline = request.source, find_pipeline(request.source.facts.folder)
    fixed = {
        "taps": taps(found.backbone, found.min_level),
        "resize": "legacy",
        "mean_rgb": [123.675, 116.28, 103.53],
        "stddev_rgb": [58.395, 57.12, 57.375],
        "scale_range": False,
        "fpn_config": None,
        "survival_prob": None,
        "conv_after_downsample": False,
        "backbone_config": None,
    }
    given = [(ASSUMED, USUAL), (API, fixed), *_stated(found, pipeline), *source.facts.given]
    facts = replace(source.facts, given=tuple(given), takes_config_file=False)
    settings = settle_detector(found, replace(request, source=source.with_facts(facts)))
    coder = ", ".join(f"{factor:g}" for factor in BOX_CODER)
    notes = (f"no pipeline.config: the box coder {coder} is assumed",) if pipeline is None else pipeline.notes
    unread = (UNREAD,) if (source.facts.folder / CONFIG_FILE).is_file() else ()
    return replace(settings, notes=(NOTE, *notes, *unread, *settings.notes))


def axes(config: EfficientDetConfig, source: VariableSource) -> Axes:
    """Return the index sets of the table for a source: its pipeline says what boxes are multiplied by."""
    pipeline = find_pipeline(source.facts.folder)
    return api_axes(config, BOX_CODER if pipeline is None else pipeline.box_coder)


def _stated(found: DetectorArchitecture, pipeline: Pipeline | None) -> list[tuple[str, Mapping[str, Any]]]:
    if pipeline is None:
        return []
    size = pipeline.hparams.get("image_size")
    names = [name for name, config in VARIANTS.items() if found.matches(config) and config.image_size == (size, size)]
    name = {"name": names[0]} if len(names) == 1 else {}
    return [(pipeline.origin, {**name, **pipeline.hparams})]
