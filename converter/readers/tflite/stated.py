"""What a file states besides its weights: image size, anchors, the settings of its detections, names of classes."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from converter.readers.tflite.content.schema import Model
from converter.readers.tflite.walk.network import NetworkFound
from converter.source import GraphEvidence
from effdet_torch.file_format import GRAPH


@dataclass(frozen=True)
class Stated:
    """Hyperparameters in the official syntax, where they are from, and what else the user should know."""

    origin: str
    hparams: Mapping[str, Any]
    notes: tuple[str, ...] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)


def given_by(name: str, network: NetworkFound, model: Model, data: memoryview) -> Stated:
    """Return what a file states."""
    shape = network.graph.tensor(network.image).shape
    height, width = shape[1:3]
    return Stated(name, {"image_size": height if height == width else f"{width}x{height}"})


def evidence_of(name: str, network: NetworkFound) -> GraphEvidence:
    """Return what the graph shows of the network."""
    pyramid, heads = network.pyramid, network.heads
    pools_first = [item.pools_first for cell in pyramid.cells for node in cell for item in node.inputs if item.conv]
    hparams: dict[str, Any] = {
        "act_type": network.activation,
        "fpn_weight_method": network.fusion,
        "fpn_name": pyramid.cell_name,
        "conv_after_downsample": pyramid.p6_pools_first or any(pools_first),
    }
    chains = [chain for levels in heads.values() for chain in levels.values()]
    if any(chain.is_residual for chain in chains):
        hparams["survival_prob"] = True
    return GraphEvidence(f"{GRAPH}{name})", hparams)


def notes_of(network: NetworkFound) -> tuple[str, ...]:
    """Return what the user should know of the precision of the weights."""
    return ()
