"""EfficientDet in PyTorch, equal to the official TensorFlow models.

The names below load torch when they are first used, so that reading `effdet_torch.config` stays cheap.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from effdet_torch.config import EfficientDetConfig, get_config, list_models

__version__ = "0.1.0"

if TYPE_CHECKING:
    from effdet_torch.inference.predict import Predictor
    from effdet_torch.network.checkpoint import load_backbone, load_model
    from effdet_torch.network.model import EfficientDet, create_model

_LAZY = {
    "EfficientDet": "effdet_torch.network.model",
    "Predictor": "effdet_torch.inference.predict",
    "create_model": "effdet_torch.network.model",
    "load_backbone": "effdet_torch.network.checkpoint",
    "load_model": "effdet_torch.network.checkpoint",
}

__all__ = [
    "EfficientDet",
    "EfficientDetConfig",
    "Predictor",
    "create_model",
    "get_config",
    "list_models",
    "load_backbone",
    "load_model",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name]), name)
