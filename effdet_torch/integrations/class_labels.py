"""The labels 0, 1, ... of another package, and the categories of a model: class channel + 1."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from effdet_torch.checks import require_type
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
        UsageError: The model has no class of one of the names, or several; a name is given twice; or there are none.
    """
    if classes is None:
        return torch.arange(1, config.num_classes + 1)
    if isinstance(classes, str):  # a sequence as well, of letters
        raise UsageError(f"classes is the text {classes!r}; expected several names, such as [{classes!r}]")
    require_type(classes, Sequence, "classes", "a sequence of names")
    if not classes:
        raise UsageError("classes is empty; name at least one class, or leave it out to take all of the model's")
    for name in classes:
        require_type(name, str, f"the class {name!r}", "a name")
    if twice := [name for name, count in Counter(classes).items() if count > 1]:
        raise UsageError(f"classes has {twice[0]!r} twice: the second label would never be found; name it once")
    numbers: dict[str, int] = {}
    for number, name in own_names(config).items():
        if name in classes and name in numbers:
            raise UsageError(
                f"{model} has the class {name!r} twice, as categories {numbers[name]} and {number}, and a label is "
                "one of them: save a copy of the model with other names (create_model(..., label_map=...), save_model)"
            )
        numbers[name] = number
    if unknown := [name for name in classes if name not in numbers]:
        raise UsageError(
            f"{model} has no class {unknown[0]!r}; it has {', '.join(numbers) or 'no names'}: pass these names"
        )
    return torch.tensor([numbers[name] for name in classes], dtype=torch.int64)


def require_labels(labels: object, name: str, allowed: range) -> Tensor:
    """Return labels (N,) of objects, which must be integers of a range; `name` is what errors call them.

    Raises:
        UsageError: They are something else.
    """
    require_type(labels, Tensor, name, "a tensor (N,) of integers")
    assert isinstance(labels, Tensor)
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise UsageError(f"{name} holds {labels.dtype}; expected integers, such as torch.int64")
    if labels.numel() and not (int(labels.min()) in allowed and int(labels.max()) in allowed):
        found = f"{int(labels.min())} to {int(labels.max())}"
        raise UsageError(f"{name} has values {found}; expected {allowed[0]} to {allowed[-1]}")
    return labels


def categories_of(labels: object, categories: Tensor, name: str) -> Tensor:
    """Return the model's categories of the labels (N,) of objects, which are integers from 0.

    Raises:
        UsageError: They are something else; `name` is what errors call them.
    """
    return categories[require_labels(labels, name, range(len(categories))).to(categories.device).long()]


def labelled(found: Mapping[str, Tensor], categories: Tensor) -> dict[str, Tensor]:
    """Return detections in torchvision's form with labels from 0; those of classes without a label are left out."""
    is_label = found["labels"][:, None] == categories
    kept = is_label.any(dim=1)
    labels = is_label[kept].int().argmax(dim=1)
    return {"boxes": found["boxes"][kept], "scores": found["scores"][kept], "labels": labels}


def plain_boxes(boxes: Any) -> Tensor:
    """Return boxes as a tensor; MMDetection and Detectron2 have types of their own for them."""
    tensor: Tensor = getattr(boxes, "tensor", boxes)
    return tensor
