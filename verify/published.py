"""The AP that the authors publish for a checkpoint."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from importlib.resources import files
from typing import Any

import yaml

from effdet_torch.config import VARIANTS, EfficientDetConfig
from verify.detection_results import PublishedAP

VAL_IMAGES = 5000
OFFICIAL_NAME = re.compile(r"efficientdet-(d\dx?|lite\dx?)(-640)?(?:[_-]advprop)?(?:\.tar\.gz|\.tgz|\.h5)?")


def published_ap(metadata: Mapping[str, Any], config: EfficientDetConfig) -> tuple[str, float] | None:
    """Return name and AP (val2017, 0..100) of the official checkpoint that a model was converted from.

    A file counts as official by its source's name and by its config, which must be the variant's own apart from what
    the official collections vary (image size 640, AdvProp's input scaling), and only if it holds the averages.

    Args:
        metadata: of the converted file.
        config: that the model was evaluated with.

    Returns:
        None if the source is not an official checkpoint.
    """
    name = str(metadata.get("source", {}).get("name", ""))
    match = OFFICIAL_NAME.fullmatch(name)
    if match is None or match[1] not in VARIANTS or metadata.get("view", {}).get("name") != "ema":
        return None
    expected = VARIANTS[match[1]]
    if match[2]:
        expected = replace(expected, image_size=(640, 640))
    collection = "advprop" if config.normalization == "advprop" else "at_640" if match[2] else "plain"
    same = replace(config, normalization=expected.normalization, redundant_bias=expected.redundant_bias) == expected
    ap = _table()[collection].get(match[1])
    return (name, ap) if same and ap is not None else None


def compare_with_published(
    metadata: Mapping[str, Any], config: EfficientDetConfig, split: str, images: int, ap: float
) -> PublishedAP | None:
    """Return the published AP beside the measured one; None for another model, other images or a part of them.

    Args:
        metadata: of the converted file.
        config: that the model was evaluated with.
        split: name of the split.
        images: how many were evaluated.
        ap: measured, in 0..1.
    """
    known = published_ap(metadata, config)
    if known is None or split != "val2017" or images != VAL_IMAGES:
        return None
    return PublishedAP(known[0], known[1], 100 * ap)


@cache
def _table() -> dict[str, dict[str, float]]:
    table: dict[str, dict[str, float]] = yaml.safe_load(files("verify").joinpath("published.yaml").read_text("utf-8"))
    return table
