"""How the `effdet` package trains its models: its settings -> official hyperparameters.

A training checkpoint has the name of its model, a pickled model has all its settings.

Source: the package's `config/model_config.py` and `data/input_config.py`, 0.4.1; its training script's options.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from converter.errors import UnsupportedSourceError
from converter.identify.effdet_package import FUSIONS, PADDINGS, QUAD, RESAMPLINGS, fpn_name
from effdet_torch.architecture.backbone import BACKBONES, PACKAGE_BACKBONES, timm_name
from effdet_torch.architecture.effdet_models import OWN_RATIOS as RATIOS
from effdet_torch.architecture.effdet_models import UNSUPPORTED_MODELS
from effdet_torch.config import PACKAGE_VARIANTS, VARIANTS

OWN_RATIOS = [list(pair) for pair in RATIOS]
PREFIX, ADVPROP = "tf_efficientdet_", "_ap"
STYLES = ("tensorflow", "pytorch")
TIMM_NAMES = {timm_name(name, style) for name in (*BACKBONES, *PACKAGE_BACKBONES) for style in STYLES}
KNOWN_ARGUMENTS = {"act_layer", "drop_path_rate", "drop_rate"}  # of timm's backbones; others may change the network
BENCHES = ("detbenchtrain", "detbenchpredict")  # timm's saver names the class, unless the script names the model
COLOURS = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}  # where a model's settings have none
ADVPROP_INPUT = {"mean_rgb": 0.0, "stddev_rgb": 1.0, "scale_range": True}  # padded with black before it is scaled
EPSILON = 0.001
MAX_SHOWN = 80  # characters of a text that a file may make endless
ACTIVATIONS = {"silu": "swish", "hard_swish": "hswish"}
# What the package's code always does, in the official names.
ALWAYS = {
    "survival_prob": None,
    "conv_after_downsample": False,
    "conv_bn_act_pattern": False,
    "apply_bn_for_resampling": True,
}
# Settings that change what the network computes, or where its tensors belong, without another name or shape.
SAME_NETWORK: Mapping[str, Any] = {
    "conv_bn_relu_pattern": False,
    "apply_resample_bn": True,
    "head_act_type": None,
    "fpn_config": None,
}


def settings_of_name(name: str) -> dict[str, Any]:
    """Return the package's settings of a model by its name, in part; {} if the package has no such name.

    Those of a bench, whose model is not known, are the ones that all models have.
    """
    variant = name.removeprefix(PREFIX).removesuffix(ADVPROP)
    if name.startswith(PREFIX) and variant in VARIANTS:
        config = VARIANTS[variant]
        is_half = name.endswith(ADVPROP) or variant.startswith("lite")
        return {
            "name": name,
            "backbone_name": timm_name(config.backbone),
            "image_size": list(config.image_size),
            "num_scales": config.num_scales,
            "aspect_ratios": OWN_RATIOS,
            "anchor_scale": config.anchor_scale,
            "act_type": config.activation,
            "fpn_name": FUSIONS[config.fusion],
            **(dict.fromkeys(COLOURS, [0.5] * 3) if is_half else {}),
            **({"fill_color": 0} if name.endswith(ADVPROP) else {}),
        }
    if (own := PACKAGE_VARIANTS.get(name)) is not None:
        smaller, larger = RESAMPLINGS[own.resampling]
        return {
            "name": name,
            "backbone_name": timm_name(own.backbone, own.backbone_style),
            "image_size": list(own.image_size),
            "num_scales": own.num_scales,
            "aspect_ratios": [list(r) if isinstance(r, tuple) else r for r in own.aspect_ratios],
            "anchor_scale": own.anchor_scale,
            "act_type": own.activation,
            "fpn_name": fpn_name(own),
            "pad_type": PADDINGS[own.padding],
            "downsample_type": smaller,
            "upsample_type": larger,
            "separable_conv": own.separable_conv,
        }
    if name in UNSUPPORTED_MODELS:
        return {"name": name}
    return {"aspect_ratios": OWN_RATIOS} if name in BENCHES else {}


def training_hparams(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Turn the package's settings of a model into official hyperparameters: those that tensors do not show.

    Args:
        settings: plain values, see the package's `config/model_config.py`; what is absent is not returned either.

    Raises:
        UnsupportedSourceError: They describe another network than the official one with these tensors.
    """
    _require_same_network(settings)
    name = str(settings.get("name", ""))
    variant = name.removeprefix(PREFIX).removesuffix(ADVPROP)
    hparams: dict[str, Any] = {"name": f"efficientdet-{variant}"} if variant in VARIANTS else {}
    if name in PACKAGE_VARIANTS:
        hparams["name"] = name
    for name in ("image_size", "num_scales", "aspect_ratios", "anchor_scale"):
        if settings.get(name) is not None:
            hparams[name] = settings[name]
    if "act_type" in settings:
        hparams["act_type"] = ACTIVATIONS.get(settings["act_type"], settings["act_type"])
    if "fpn_name" in settings:
        fusions = {fpn: fusion for fusion, fpn in FUSIONS.items()} | {None: "fastattn", QUAD: "fastattn"}
        hparams["fpn_weight_method"] = fusions[settings["fpn_name"]]
        hparams["fpn_name"] = "qufpn_upwards" if settings["fpn_name"] == QUAD else "bifpn"
    if "name" in settings:
        colours = {name: tuple(settings.get(name) or usual) for name, usual in COLOURS.items()}
        is_advprop = settings.get("fill_color") == 0 and set(colours["mean"] + colours["std"]) == {0.5}
        mean, std = ([round(255 * value, 6) for value in colours[name]] for name in COLOURS)
        hparams |= ADVPROP_INPUT if is_advprop else {"mean_rgb": mean, "stddev_rgb": std, "scale_range": False}
        hparams |= ALWAYS
        hparams |= _package_settings(settings)
    return hparams


def _package_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return what no official model has, by our names."""
    resampled = settings.get("downsample_type") or "max", settings.get("upsample_type") or "nearest"
    return {
        "separable_conv": settings.get("separable_conv", True),
        "padding": {theirs: ours for ours, theirs in PADDINGS.items()}[settings.get("pad_type", "same")],
        "resampling": {theirs: ours for ours, theirs in RESAMPLINGS.items()}[resampled],
        "backbone_style": "tensorflow" if settings.get("backbone_name", PREFIX).startswith("tf_") else "pytorch",
    }


def _require_same_network(settings: Mapping[str, Any]) -> None:
    name = str(settings.get("name", "its own"))[:MAX_SHOWN]
    if reason := UNSUPPORTED_MODELS.get(name):
        raise UnsupportedSourceError(f"{name} of the effdet package is not supported: {reason}. Use it with effdet")
    backbone = settings.get("backbone_name", "tf_")
    arguments = settings.get("backbone_args") or {}
    usual = {"efficientnet_e": "relu", "tf_efficientnet_l": "relu6", "efficientnet_l": "relu6"}
    inside = arguments.get("act_layer", next((usual[begin] for begin in usual if backbone.startswith(begin)), "swish"))
    activation = settings.get("act_type", inside)
    problems = [
        f"{name} {settings[name]!r} (expected {expected!r})"
        for name, expected in SAME_NETWORK.items()
        if settings.get(name, expected) != expected
    ]
    if (epsilon := (settings.get("norm_kwargs") or {}).get("eps", EPSILON)) != EPSILON:
        problems.append(f"batch norm epsilon {epsilon} (expected {EPSILON})")
    if settings.get("pad_type", "same") not in PADDINGS.values():
        problems.append(
            f"pad_type {settings['pad_type']!r} (expected one of {', '.join(map(repr, PADDINGS.values()))})"
        )
    resampled = settings.get("downsample_type") or "max", settings.get("upsample_type") or "nearest"
    if resampled not in RESAMPLINGS.values():
        problems.append(f"resampling {' and '.join(resampled)} (expected max and nearest, or bilinear twice)")
    if backbone not in ("tf_", *TIMM_NAMES):
        problems.append(f"backbone {backbone} (expected an EfficientNet of this project)")
    if others := sorted(set(arguments) - KNOWN_ARGUMENTS):
        problems.append(f"backbone_args {', '.join(others)} (expected {', '.join(sorted(KNOWN_ARGUMENTS))} only)")
    if ACTIVATIONS.get(activation, activation) != ACTIVATIONS.get(inside, inside):
        problems.append(f"act_type {activation!r} beside the backbone's {inside!r}")
    if settings.get("fpn_name") not in (None, *FUSIONS.values(), QUAD):
        problems.append(f"fpn_name {settings['fpn_name']!r} (expected one of {', '.join((*FUSIONS.values(), QUAD))})")
    if problems:
        found = "; ".join(problems)[: 5 * MAX_SHOWN]
        raise UnsupportedSourceError(
            f"a model that effdet built as {name}, with {found}: its tensors may fit the official network, but it "
            "computes different outputs. Use it with effdet"
        )
