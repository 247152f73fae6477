"""How to build the model of a bare state_dict with the `effdet` package or timm.

Source: the package's `config/model_config.py`, 0.4.1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from effdet_torch.architecture.backbone import PACKAGE_BACKBONES, timm_name
from effdet_torch.checks import DETECTION
from effdet_torch.config import PACKAGE_VARIANTS, BackboneConfig, EfficientDetConfig, get_config
from effdet_torch.errors import UsageError

ACTIVATIONS = {
    "swish": "swish",
    "relu6": "relu6",
    "relu": "relu",
    "hswish": "hard_swish",
    "mish": "mish",
}  # timm's names
FUSIONS = {"fastattn": "bifpn_fa", "attn": "bifpn_attn", "sum": "bifpn_sum"}
QUAD = "qufpn_fa"  # our qufpn_upwards with fastattn
PADDINGS = {"same": "same", "symmetric": ""}
RESAMPLINGS = {"max_nearest": ("max", "nearest"), "bilinear": ("bilinear", "bilinear")}  # smaller, larger


def fpn_name(config: EfficientDetConfig) -> str:
    """Return what the package calls the pyramid and its fusion."""
    return FUSIONS[config.fusion] if config.fpn_name == "bifpn" else QUAD


# Field of our config -> settings of the package's config, used if the field differs from the variant's.
SETTINGS: Mapping[str, Callable[[Any], dict[str, Any]]] = {
    "fpn_channels": lambda channels: {"fpn_channels": channels},
    "fpn_cells": lambda cells: {"fpn_cell_repeats": cells},
    "head_repeats": lambda repeats: {"box_class_repeats": repeats},
    "levels": lambda levels: {"min_level": levels[0], "max_level": levels[-1], "num_levels": len(levels)},
    "activation": lambda name: {"act_type": ACTIVATIONS[name], "backbone_args": {"act_layer": ACTIVATIONS[name]}},
    "padding": lambda kind: {"pad_type": PADDINGS[kind]},
    "resampling": lambda kind: dict(zip(("downsample_type", "upsample_type"), RESAMPLINGS[kind], strict=True)),
    "separable_conv": lambda is_set: {"separable_conv": is_set},
    "num_scales": lambda scales: {"num_scales": scales},
    "aspect_ratios": lambda ratios: {"aspect_ratios": list(ratios)},
    "anchor_scale": lambda scale: {"anchor_scale": scale},
    "mean_rgb": lambda mean: {"mean": tuple(round(value / 255, 6) for value in mean)},
    "std_rgb": lambda std: {"std": tuple(round(value / 255, 6) for value in std)},
    # AdvProp maps 0..255 to -1..1; it comes last because it replaces mean and deviation.
    "normalization": lambda kind: {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)} if kind == "advprop" else {},
}


# Field of our config -> whether the package can compute a value; others it can all compute.
KNOWN: Mapping[str, Callable[[Any], bool]] = {
    "fusion": lambda fusion: fusion in FUSIONS,
    "normalization": lambda kind: kind != "scale_range",
    "anchor_scale": lambda scale: not isinstance(scale, tuple),
    "min_level": lambda level: level == 3,
    "fpn_name": lambda name: name != "qufpn",
    "fpn_config": lambda nodes: not nodes,
    "survival_prob": lambda probability: not probability,
    "conv_after_downsample": lambda is_set: not is_set,
    "conv_bn_act_pattern": lambda is_set: not is_set,
    "apply_bn_for_resampling": lambda is_set: is_set,
    "activation": lambda name: name in ACTIVATIONS,
    "heads": lambda heads: heads == (DETECTION,),
    "taps": lambda taps: not taps,
    "resize": lambda kind: kind == "half_pixel",
}


def effdet_settings(config: EfficientDetConfig) -> dict[str, Any]:
    """Return the changes to the package's config of the same variant, as plain values."""
    variant = get_config(config.name)
    changes: dict[str, Any] = {
        "num_classes": config.num_classes,
        "image_size": config.image_size,
        "redundant_bias": config.redundant_bias,
        **({"head_bn_level_first": False} if config.name in PACKAGE_VARIANTS else {}),
    }
    if config.backbone_style != variant.backbone_style:
        changes["backbone_name"] = timm_name(config.backbone, config.backbone_style)
    if fpn_name(config) != fpn_name(variant):
        changes["fpn_name"] = fpn_name(config)
    for field, settings in SETTINGS.items():
        if (found := settings(getattr(config, field))) != settings(getattr(variant, field)):
            changes |= found
    return changes


def effdet_code(config: EfficientDetConfig) -> str:
    """Return Python code that builds the model after the import of two names from `effdet`."""
    changes = ", ".join(f"{name}={value!r}" for name, value in effdet_settings(config).items())
    name = config.name if config.name in PACKAGE_VARIANTS else f"tf_efficientdet_{config.name}"
    return (
        f"config = get_efficientdet_config({name!r}); config.update({changes}); "
        "model = EfficientDet(config, pretrained_backbone=False)"
    )


def detector_notes(config: EfficientDetConfig) -> Iterator[str]:
    """Yield what users of the `effdet` package need to know about a bare state_dict.

    Raises:
        UsageError: The package cannot build this network.
    """
    if config.fpn_name == "qufpn_upwards" and config.fusion != "fastattn":
        raise UsageError("the effdet package adds the paths of its qufpn by fastattn only; omit --layout effdet")
    if lacking := [name for name, is_known in KNOWN.items() if not is_known(getattr(config, name))]:
        raise UsageError(
            f"the effdet package cannot build this network: {', '.join(f'{n} {getattr(config, n)}' for n in lacking)}; "
            "omit --layout effdet"
        )
    yield f"for effdet: {effdet_code(config)}"
    other = PACKAGE_VARIANTS.get(f"efficientdet_{config.name}")
    if other is not None and other.redundant_bias == config.redundant_bias:
        yield (
            f"efficientdet_{config.name}, without tf_, may load the file as well, but it uses different padding, so it "
            "is a different network"
        )


def no_tensorflow_original(config: EfficientDetConfig) -> str:
    """Return why a network has no TensorFlow original, in words; "" if it has one."""
    if config.backbone in PACKAGE_BACKBONES or config.backbone_style != "tensorflow" or config.padding != "same":
        return "only the effdet package has such a model, TensorFlow would pad it differently"
    if config.resampling != "max_nearest" or config.fpn_name == "qufpn_upwards":
        return "only the effdet package has such a pyramid"
    return ""


def backbone_notes(config: BackboneConfig) -> Iterator[str]:
    """Yield what users of timm need to know about a bare state_dict."""
    yield f"for timm: create_model({timm_name(config.backbone)!r}, features_only=True), strictly"
