"""The models by their names: the official variants of EfficientDet, and those that only the `effdet` package has.

Source: EfficientDet (arXiv:1911.09070) table 1; the official code's `hparams_config`, 2025-03.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from effdet_torch.architecture.effdet_models import PACKAGE_MODELS, UNSUPPORTED_MODELS
from effdet_torch.architecture.names import did_you_mean, short_name, split_ending
from effdet_torch.checks import require_type
from effdet_torch.config import EfficientDetConfig, changed_config
from effdet_torch.errors import ConfigError


def _variant(
    name: str, backbone: str, size: int, channels: int, cells: int, repeats: int, **other: Any
) -> EfficientDetConfig:
    return EfficientDetConfig(name, f"efficientnet-{backbone}", (size, size), channels, cells, repeats, **other)


_LITE: Mapping[str, Any] = {
    "fusion": "sum",
    "activation": "relu6",
    "mean_rgb": (127.0, 127.0, 127.0),
    "std_rgb": (128.0, 128.0, 128.0),
}


VARIANTS: Mapping[str, EfficientDetConfig] = {
    config.name: config
    for config in (
        # name, backbone, image size, BiFPN channels, BiFPN cells, head repeats
        _variant("d0", "b0", 512, 64, 3, 3),
        _variant("d1", "b1", 640, 88, 4, 3),
        _variant("d2", "b2", 768, 112, 5, 3),
        _variant("d3", "b3", 896, 160, 6, 4),
        _variant("d4", "b4", 1024, 224, 7, 4),
        _variant("d5", "b5", 1280, 288, 7, 4),
        _variant("d6", "b6", 1280, 384, 8, 5, fusion="sum"),
        _variant("d7", "b6", 1536, 384, 8, 5, fusion="sum", anchor_scale=5.0),
        _variant("d7x", "b7", 1536, 384, 8, 5, fusion="sum", max_level=8),
        _variant("lite0", "lite0", 320, 64, 3, 3, anchor_scale=3.0, **_LITE),
        _variant("lite1", "lite1", 384, 88, 4, 3, anchor_scale=3.0, **_LITE),
        _variant("lite2", "lite2", 448, 112, 5, 3, anchor_scale=3.0, **_LITE),
        _variant("lite3", "lite3", 512, 160, 6, 4, anchor_scale=4.0, **_LITE),
        _variant("lite3x", "lite3", 640, 200, 6, 4, anchor_scale=3.0, **_LITE),
        _variant("lite4", "lite4", 640, 224, 7, 4, anchor_scale=4.0, **_LITE),
    )
}


# Models that only the `effdet` package has. They have no TensorFlow original.
PACKAGE_VARIANTS: Mapping[str, EfficientDetConfig] = {
    name: EfficientDetConfig(name, backbone, (size, size), channels, cells, repeats, **other)
    for name, ((backbone, size, channels, cells, repeats), other) in PACKAGE_MODELS.items()
}
MODELS: Mapping[str, EfficientDetConfig] = {**VARIANTS, **PACKAGE_VARIANTS}


def list_models() -> list[str]:
    """Return the names of all models, smallest first in each family: the official variants, then those of `effdet`."""
    return list(MODELS)


def variants_with(backbone: str) -> list[str]:
    """Return the models that have a backbone, official ones first; none for an unknown name."""
    return [name for name, config in MODELS.items() if config.backbone == backbone]


def model_name(name: str) -> str:
    """Return the key of `MODELS` that a name stands for, or its short official form: "d0" of "EfficientDet-D0"."""
    short, underscored = short_name(name), name.lower().replace("-", "_")
    is_own = underscored in PACKAGE_VARIANTS and (name.lower() == underscored or short not in VARIANTS)
    return underscored if is_own else short


def is_official(name: str) -> bool:
    """Whether a name is that of an official model, settings included: "d0", "tf_efficientdet_d0", "d4-640"."""
    return split_ending(model_name(name))[0] in VARIANTS


def get_config(variant: str, **overrides: Any) -> EfficientDetConfig:
    """Return the config of a variant, with some values replaced.

    Args:
        variant: "d0".."d7", "d7x", "lite0".."lite4", "lite3x"; also as "efficientdet-d0" or "tf_efficientdet_d0". A
            name as the `effdet` package writes it, such as "efficientdet_d0" or "efficientdet_q0", is its own model.
        **overrides: fields of `EfficientDetConfig`; an integer `image_size` means a square, and `label_map` may be a
            dictionary; classes that it leaves out are "class 7" and the like.

    Raises:
        UsageError: The variant is not a text.
        ConfigError: The variant or a field does not exist, or a value does not fit.
    """
    require_type(variant, str, "variant", "the name of a variant, see list_models()")
    name = model_name(variant)
    if name not in MODELS:
        if reason := UNSUPPORTED_MODELS.get(variant.lower()):
            raise ConfigError(f"{variant!r} of the effdet package is not supported: {reason}")
        base, settings = split_ending(name)
        if base in VARIANTS:
            raise ConfigError(
                f"{variant!r} is not a variant, but {base} with other settings: pass {base!r} and {settings}"
            )
        question = did_you_mean(name, VARIANTS) or did_you_mean(variant.lower(), PACKAGE_VARIANTS)
        raise ConfigError(f"unknown variant {variant!r}; known variants: {', '.join(MODELS)}{question}")
    return changed_config(MODELS[name], **overrides)
