"""IoU losses of boxes: 1 - IoU, and what is added where boxes do not overlap.

Source: GIoU, Rezatofighi et al. (arXiv:1902.09630); DIoU and CIoU, Zheng et al. (arXiv:1911.08287).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor


class Overlap(NamedTuple):
    """What boxes have in common with their targets.

    Attributes:
        boxes, targets: (..., 4) corners (ymin, xmin, ymax, xmax) in pixels.
        iou: (...,) intersection over union.
        union: (...,) area in pixels.
        enclosing: (..., 2) size of the least box around both.
    """

    boxes: Tensor
    targets: Tensor
    iou: Tensor
    union: Tensor
    enclosing: Tensor

    @classmethod
    def of(cls, boxes: Tensor, targets: Tensor) -> Overlap:
        """Compare boxes (..., 4) with their targets."""
        low, high = torch.maximum(boxes[..., :2], targets[..., :2]), torch.minimum(boxes[..., 2:], targets[..., 2:])
        common = (high - low).clamp(min=0).prod(dim=-1)
        union = _sizes(boxes).prod(dim=-1) + _sizes(targets).prod(dim=-1) - common
        enclosing = torch.maximum(boxes[..., 2:], targets[..., 2:]) - torch.minimum(boxes[..., :2], targets[..., :2])
        return cls(boxes, targets, _ratio(common, union), union, enclosing.clamp(min=0))

    def generalized(self) -> Tensor:
        """Return the IoU less the part of the enclosing box that neither box covers."""
        area = self.enclosing.prod(dim=-1)
        return self.iou - _ratio(area - self.union, area)

    def by_distance(self) -> Tensor:
        """Return the IoU less the squared distance of the centers over the squared diagonal of the enclosing box."""
        distance = _centers(self.targets) - _centers(self.boxes)
        return self.iou - _ratio(distance.square().sum(dim=-1), self.enclosing.square().sum(dim=-1))

    def complete(self) -> Tensor:
        """Return the IoU by distance less a penalty of differing aspect ratios."""
        return self._with_aspects(self.boxes)

    def complete_in_graph(self) -> Tensor:
        """Return the same; its gradient is the one of the official trainer, whose aspects pass none to the boxes."""
        return self._with_aspects(self.boxes.detach())

    def _with_aspects(self, boxes: Tensor) -> Tensor:
        difference = _angle(self.targets) - _angle(boxes)
        aspect = 4 * (difference / math.pi).square()
        return self.by_distance() - _ratio(aspect, 1 - self.iou + aspect) * aspect


KINDS: Mapping[str, Callable[[Overlap], Tensor]] = {
    "iou": lambda overlap: overlap.iou,
    "giou": Overlap.generalized,
    "diou": Overlap.by_distance,
    "ciou": Overlap.complete,
    "ciou-graph": Overlap.complete_in_graph,
}


def iou_loss(boxes: Tensor, targets: Tensor, kind: str) -> Tensor:
    """Return 1 - IoU of boxes and their targets, and 0 where a target has no area.

    Args:
        boxes: (..., 4) corners (ymin, xmin, ymax, xmax) in pixels; a negative size counts as 0.
        targets: (..., 4) the same.
        kind: a key of `KINDS`.

    Returns:
        (...,), 0 to 2 ("ciou": to 3).
    """
    return torch.where(_sizes(targets).prod(dim=-1) > 0, 1 - KINDS[kind](Overlap.of(boxes, targets)), 0.0)


def _sizes(boxes: Tensor) -> Tensor:
    return (boxes[..., 2:] - boxes[..., :2]).clamp(min=0)


def _centers(boxes: Tensor) -> Tensor:
    return (boxes[..., :2] + boxes[..., 2:]) / 2


def _angle(boxes_yxyx: Tensor) -> Tensor:
    """Return the arc tangent of width / height."""
    height, width = _sizes(boxes_yxyx).unbind(dim=-1)
    return torch.atan(_ratio(width, height))


def _ratio(part: Tensor, whole: Tensor) -> Tensor:
    """Return part / whole, and 0 with a gradient of 0 where whole is 0."""
    is_zero = whole == 0
    return torch.where(is_zero, 0.0, part / torch.where(is_zero, 1.0, whole))
