"""EfficientDet in PyTorch, equal to the official TensorFlow models.

Most names below load torch when they are first used, so importing the package, or only `effdet_torch.config`, is cheap.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from effdet_torch.config import EfficientDetConfig, get_config, list_models

__version__ = "0.1.0"

if TYPE_CHECKING:
    from effdet_torch.export.export import export_model
    from effdet_torch.export.settings import ExportSettings
    from effdet_torch.geometry.anchors import make_anchors_yxyx
    from effdet_torch.inference.labels import COCO_NAMES, read_labels
    from effdet_torch.inference.predict import Predictor
    from effdet_torch.inference.results.image_detections import ImageDetections
    from effdet_torch.integrations.torchvision_detector import as_torchvision
    from effdet_torch.network.checkpoint import create_model, load_backbone, load_model
    from effdet_torch.network.model import EfficientDet
    from effdet_torch.network.saving import save_model

_LAZY = {
    "COCO_NAMES": "inference.labels",
    "EfficientDet": "network.model",
    "ExportSettings": "export.settings",
    "ImageDetections": "inference.results.image_detections",
    "Predictor": "inference.predict",
    "as_torchvision": "integrations.torchvision_detector",
    "create_model": "network.checkpoint",
    "export_model": "export.export",
    "load_backbone": "network.checkpoint",
    "load_model": "network.checkpoint",
    "make_anchors_yxyx": "geometry.anchors",
    "read_labels": "inference.labels",
    "save_model": "network.saving",
}

__all__ = [
    "COCO_NAMES",
    "EfficientDet",
    "EfficientDetConfig",
    "ExportSettings",
    "ImageDetections",
    "Predictor",
    "as_torchvision",
    "create_model",
    "export_model",
    "get_config",
    "list_models",
    "load_backbone",
    "load_model",
    "make_anchors_yxyx",
    "read_labels",
    "save_model",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_LAZY[name]}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
