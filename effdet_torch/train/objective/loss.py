"""The loss of a detector: classes, boxes, and overlaps where the recipe has them.

Source: EfficientDet official code, `detection_loss` of main.py and `_detection_loss` of the second trainer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from effdet_torch.config import EfficientDetConfig
from effdet_torch.errors import UsageError
from effdet_torch.geometry.anchors import make_anchors_yxyx
from effdet_torch.geometry.boxes import decode_boxes_xyxy, yxyx_to_xyxy
from effdet_torch.train.objective.focal import WIDE, Focal, focal_sum
from effdet_torch.train.objective.iou import iou_loss
from effdet_torch.train.objective.levels import COORDINATES, LevelTargets, make_levels
from effdet_torch.train.objective.normalizer import normalizer_of
from effdet_torch.train.objective.targets import Targets, moved
from effdet_torch.train.recipe import Recipe


class Losses(NamedTuple):
    """The losses of a batch, () each, without the L2 term.

    Attributes:
        total: classes + the recipe's weight * boxes + its other weight * iou; the one to differentiate.
        classes: focal loss over the normaliser.
        boxes: Huber loss over four times the normaliser; 0 where its weight is 0.
        iou: IoU loss over four times the normaliser; 0 where the recipe has none.
    """

    total: Tensor
    classes: Tensor
    boxes: Tensor
    iou: Tensor


class DetectionLoss(nn.Module):
    """The official loss of a network's outputs. 16-bit outputs are computed in float32, inside autocast as well.

    Args:
        recipe: supplies everything from `alpha` to `iou_loss_weight`.
        config: supplies anchors and number of classes.
        image_size: (height, width) in pixels where it is not the config's.
    """

    anchors_yxyx: Tensor

    def __init__(self, recipe: Recipe, config: EfficientDetConfig, image_size: tuple[int, int] | None = None) -> None:
        super().__init__()
        config = config if image_size is None else replace(config, image_size=image_size)
        self.recipe, self.levels = recipe, make_levels(config)
        # The official constant is a float32: another one moves float64 losses by 1e-8.
        self.delta = float(np.float32(recipe.delta))
        official = recipe.iou_loss == "ciou" and recipe.ciou_gradient == "graph"
        self.iou_kind = "ciou-graph" if official else str(recipe.iou_loss)
        self.register_buffer("anchors_yxyx", make_anchors_yxyx(config), persistent=False)

    def forward(
        self,
        class_logits: Sequence[Tensor],
        box_deltas: Sequence[Tensor],
        targets: Targets,
        normalizer: Tensor | float | None = None,
    ) -> Losses:
        """Return the losses of a batch.

        Args:
            class_logits: for every level (B, anchors * classes, H, W), in any memory layout.
            box_deltas: for every level (B, anchors * 4, H, W).
            targets: of the same images, on any device; on the CPU, they do not make the CPU wait for a GPU.
            normalizer: what the losses are divided by; None is the number of positive anchors plus 1.

        Raises:
            UsageError: The outputs have other shapes than the config's.
        """
        self._require_outputs(class_logits, box_deltas, len(targets.positives))
        device = class_logits[0].device
        divisor = normalizer_of(targets) if normalizer is None else normalizer
        divisor = moved(divisor, device) if isinstance(divisor, Tensor) else divisor
        parts = [level.part(targets) for level in self.levels]
        with torch.autocast(device.type, enabled=False):
            classes = self._classes(class_logits, parts) / divisor
            boxes, iou = (part / (COORDINATES * divisor) for part in self._boxes(box_deltas, parts))
        total = classes + self.recipe.box_loss_weight * boxes + self.recipe.iou_loss_weight * iou
        return Losses(total, classes, boxes, iou)

    def _classes(self, class_logits: Sequence[Tensor], parts: Sequence[LevelTargets]) -> Tensor:
        """Return the sum of the focal losses, ()."""
        focal = Focal.of(self.recipe)
        sums = [
            focal_sum(logits, part.objects(logits.device), part.ignored(logits.device), focal)
            for logits, part in zip(class_logits, parts, strict=True)
        ]
        return torch.stack(sums).sum()

    def _boxes(self, box_deltas: Sequence[Tensor], parts: Sequence[LevelTargets]) -> tuple[Tensor, Tensor]:
        """Return the sums of Huber and IoU losses, () each."""
        device = box_deltas[0].device
        levels = zip(box_deltas, parts, strict=True)
        found = torch.cat([_wide(deltas[part.deltas(device)]) for deltas, part in levels])
        expected = moved(torch.cat([part.boxes for part in parts]), device).to(found.dtype)
        # As in the official code, a coordinate whose target is exactly 0 is not trained.
        is_trained = expected != 0
        huber = F.huber_loss(found, expected, reduction="none", delta=self.delta)
        huber = torch.where(is_trained, huber, 0.0).sum() * bool(self.recipe.box_loss_weight)
        if self.recipe.iou_loss is None:
            return huber, torch.zeros_like(huber)
        # The official code has the outputs level after level, but the anchors image after image. That is harmless, as
        # IoUs depend on an anchor's aspect ratio only, which is repeated with the same period, but for its rounding.
        position = moved(torch.cat([part.position for part in parts]), device)
        anchors = self.anchors_yxyx[position % len(self.anchors_yxyx)].to(found.dtype)
        boxes, goals = (yxyx_to_xyxy(decode_boxes_xyxy(deltas, anchors)) * is_trained for deltas in (found, expected))
        return huber, iou_loss(boxes, goals, self.iou_kind).sum()

    def _require_outputs(self, class_logits: Sequence[Tensor], box_deltas: Sequence[Tensor], batch: int) -> None:
        """Refuse outputs of another network, image size or batch."""
        expected = [[(batch, *shape) for shape in level.shapes] for level in self.levels]
        for number, name, outputs in ((0, "class logits", class_logits), (1, "box deltas", box_deltas)):
            shapes = [pair[number] for pair in expected]
            if (found := [tuple(output.shape) for output in outputs]) != shapes:
                raise UsageError(
                    f"{name} of the shapes {found}; expected {shapes} for the targets, image size and classes of the "
                    "loss; make the loss from the model's config"
                )


def _wide(values: Tensor) -> Tensor:
    """Return values in 32 bits or more."""
    return values if values.dtype in WIDE else values.float()
