"""EfficientDet for `torch.hub`: an entry for every model, by our names and by those of the `effdet` package.

    torch.hub.load("OWNER/effdet-convert", "d0", pretrained="d0.pth")
    torch.hub.load("path/of/the/checkout", "tf_efficientdet_d0", source="local", num_classes=20)

The arguments are those of `effdet_torch.create_model`. No weights are bundled: `pretrained` is a file that
effdet-convert wrote, or `hf:user/repository` on the Hugging Face Hub. Without it, the model is untrained.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:  # torch.hub lists everything here that can be called
    from collections.abc import Callable
    from typing import Any

    from effdet_torch import EfficientDet

dependencies = ["numpy", "safetensors", "torch"]


def effdet(variant: str, **settings: Any) -> EfficientDet:
    """Build an EfficientDet by any name that `effdet_torch.create_model` knows; see there for the settings."""
    from effdet_torch import create_model

    return create_model(variant, **settings)


def _entry(name: str, variant: str) -> Callable[..., EfficientDet]:
    def entry(**settings: Any) -> EfficientDet:
        return effdet(variant, **settings)

    entry.__name__ = entry.__qualname__ = name
    entry.__doc__ = (
        f"Build {variant}; settings are those of `effdet_torch.create_model`: pretrained (a converted file, or "
        "hf:user/repository), num_classes, image_size, ..."
    )
    return entry


def _entries() -> dict[str, Callable[..., EfficientDet]]:
    from effdet_torch.config import MODELS, VARIANTS

    names = {**{name: name for name in MODELS}, **{f"tf_efficientdet_{name}": name for name in VARIANTS}}
    return {name: _entry(name, variant) for name, variant in names.items()}


globals().update(_entries())
