"""Architecture mutations: the tensors of a model in another network, which has the same ones and computes otherwise."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

from numpy.typing import NDArray

from converter.conversion import Preparation
from converter.identify.families import DETECTOR
from effdet_torch.architecture.backbone import BACKBONE_TOP
from effdet_torch.config import EfficientDetConfig
from effdet_torch.network.model import EfficientDet
from verify.layers.parity import compare_layers
from verify.subjects.references import build_reference


class OtherNetwork(NamedTuple):
    """The same tensors in another network: what differs, the first layer that fails, and its error over tolerance."""

    change: str
    layer: str
    excess: float


def other_networks(preparation: Preparation, model: EfficientDet, images: NDArray[Any]) -> list[OtherNetwork]:
    """Put the tensors of a model into networks that have the same ones and compute something else."""
    reference, results = build_reference(preparation, "float32"), list[OtherNetwork]()
    for change, settings in architecture_mutations(model.config).items():
        other = EfficientDet(replace(model.config, **settings)).eval()
        other.load_state_dict(model.state_dict())
        found = compare_layers(reference, other, DETECTOR.plan(other.config), images, "float32")
        failed = sorted(
            (r for r in found if not r.passed), key=lambda result: (result.mode != "isolated", result.order)
        )
        worst = failed[0].measures.max_over_rms / failed[0].tolerance if failed else 0.0
        results.append(OtherNetwork(change, f"{failed[0].name} ({failed[0].mode})" if failed else "", worst))
    return results


def architecture_mutations(config: EfficientDetConfig) -> dict[str, dict[str, Any]]:
    """Return {what differs: fields of the config} of networks with the same variables."""
    changes: dict[str, dict[str, Any]] = {
        f"activation {name}": {"activation": name}
        for name in ("swish", "relu6", "relu", "hswish", "mish")
        if name != config.activation
    }
    if config.fusion == "fastattn":
        changes["fusion attn"] = {"fusion": "attn"}
    level, (*others, one, other) = config.cell[-2]
    rewired = (*config.cell[:-2], (level, (*others, other, one)), config.cell[-1])
    if config.head_repeats > 1:
        changes["residual heads"] = {"survival_prob": 0.8}
    if config.max_level > BACKBONE_TOP:  # the coarser levels are made by a convolution and a pooling
        changes["pooling before the convolution"] = {"conv_after_downsample": True}
    return changes | {"two inputs of a node exchanged": {"fpn_config": rewired}}
