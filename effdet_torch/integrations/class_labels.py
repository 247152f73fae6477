"""The labels 0, 1, ... of another package, and the categories of a model: class channel + 1."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from effdet_torch.config import EfficientDetConfig
from effdet_torch.errors import UsageError
from effdet_torch.inference.labels import own_names


def label_categories(classes: Sequence[str] | None, config: EfficientDetConfig, model: str) -> Tensor:
    """Return the model's category of every label, (L,) int64.

    Args:
        classes: names of the labels; each must be the name of a class of the model. None: label 0 is the model's first
            class channel, and so on.
        config: of the model.
        model: what errors call it.

    Raises:
        UsageError: The model has no class of one of the names.
    """
    if classes is None:
        return torch.arange(1, config.num_classes + 1)
    numbers = {name: number for number, name in own_names(config).items()}
    if unknown := [name for name in classes if name not in numbers]:
        raise UsageError(
            f"{model} has no class {unknown[0]!r}; it has {', '.join(numbers) or 'no names'}: pass these names"
        )
    return torch.tensor([numbers[name] for name in classes], dtype=torch.int64)


def labelled(found: Mapping[str, Tensor], categories: Tensor) -> dict[str, Tensor]:
    """Return detections in torchvision's form with labels from 0; those of classes without a label are left out."""
    is_label = found["labels"][:, None] == categories
    kept = is_label.any(dim=1)
    labels = is_label[kept].int().argmax(dim=1)
    return {"boxes": found["boxes"][kept], "scores": found["scores"][kept], "labels": labels}
