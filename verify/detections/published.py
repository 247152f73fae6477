"""The AP that the authors publish for a checkpoint."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from converter.identify.official import OfficialFile, official_files
from effdet_torch.config import BackboneConfig, EfficientDetConfig
from verify.results.detections import PublishedAP

VAL_IMAGES = 5000
SUFFIX = re.compile(r"\.tar\.gz$|\.tgz$|\.h5$")


def compare_with_published(
    metadata: Mapping[str, Any], config: EfficientDetConfig, split: str, images: int, ap: float
) -> PublishedAP | None:
    """Return the published AP beside the measured one; None for another model, other images or a part of them.

    A file counts as official by its source's name and by its config, which must be that of the official file, and
    only if it holds the averages.

    Args:
        metadata: of the converted file.
        config: that the model was evaluated with.
        split: name of the split.
        images: how many were evaluated.
        ap: measured, in 0..1.
    """
    source = metadata.get("source", {})
    name = str(source.get("official") or source.get("name", ""))
    if metadata.get("view", {}).get("name") != "ema" or split != "val2017" or images != VAL_IMAGES:
        return None
    stem = SUFFIX.sub("", name).replace("_advprop", "-advprop")
    files = (file for file in official_files().values() if stem in _stems(file) and _is_same(config, file.config))
    return next((PublishedAP(name, file.ap, 100 * ap) for file in files if file.ap is not None), None)


def _stems(file: OfficialFile) -> set[str]:
    """Return the names under which a file, or the folder in its archive, is known: two collections have d0."""
    return {SUFFIX.sub("", name) for name in (file.name, file.url.rpartition("/")[2])}


def _is_same(config: EfficientDetConfig, official: EfficientDetConfig | BackboneConfig) -> bool:
    """Whether two configs compute the same: AdvProp's scaling takes no mean, and folded biases change nothing."""
    if isinstance(official, BackboneConfig):
        return False
    if config.normalization == "advprop":
        config = replace(config, mean_rgb=official.mean_rgb, std_rgb=official.std_rgb)
    return replace(config, redundant_bias=official.redundant_bias) == official
