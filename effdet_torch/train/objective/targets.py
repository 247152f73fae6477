"""Targets: what the network is to say at every anchor, as a short list of the anchors that are not background."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from effdet_torch.checks import require_type
from effdet_torch.config import EfficientDetConfig
from effdet_torch.errors import UsageError
from effdet_torch.geometry.boxes import encode_boxes_xyxy, yxyx_to_xyxy
from effdet_torch.train.objective.matching import AnchorGrid

BACKGROUND, IGNORED = -1, -2  # class channels of labels 0 and -1


class Targets(NamedTuple):
    """The targets of a batch. An anchor that is not listed is background.

    Attributes:
        image: (P,) int64, position in the batch, ascending.
        anchor: (P,) int64 over all levels, in the order of `make_anchors_yxyx`; ascending inside an image.
        classes: (P,) int64 class channel, which is label - 1; -1 is background; at -2 no class is trained; from
            num_classes on, all classes are background. The box is trained at all of them.
        boxes: (P, 4) deltas (ty, tx, th, tw), in the boxes' floating-point type.
        positives: (B,) int64, how many rows are an image's.
    """

    image: Tensor
    anchor: Tensor
    classes: Tensor
    boxes: Tensor
    positives: Tensor

    def to(self, device: torch.device | str) -> Targets:
        """Return the targets on a device."""
        return Targets(*(moved(tensor, device) for tensor in self))

    def dense(self, anchor_count: int) -> tuple[Tensor, Tensor]:
        """Return class channels (B, A), -1 for background, and deltas (B, A, 4), 0 for background."""
        batch = len(self.positives)
        classes = self.classes.new_full((batch, anchor_count), BACKGROUND)
        boxes = self.boxes.new_zeros((batch, anchor_count, 4))
        classes[self.image, self.anchor] = self.classes
        boxes[self.image, self.anchor] = self.boxes
        return classes, boxes


class TargetAssigner:
    """Assigns the boxes of images to anchors as the official trainer does; made once, called for every batch.

    Args:
        config: supplies the anchors.
        image_size: (height, width) in pixels where it is not the config's.

    Raises:
        UsageError: `config` is something else.
    """

    def __init__(self, config: EfficientDetConfig, image_size: tuple[int, int] | None = None) -> None:
        require_type(config, EfficientDetConfig, "config", "an EfficientDetConfig, which get_config returns")
        self._grid = AnchorGrid(config if image_size is None else replace(config, image_size=image_size))
        self._anchors = torch.tensor(self._grid.anchors)

    def __call__(self, boxes_xyxy: Sequence[Tensor], labels: Sequence[Tensor]) -> Targets:
        """Return the targets of a batch, on the boxes' device; computed on the CPU.

        Args:
            boxes_xyxy: for every image (N, 4) in pixels of the network input; N may be 0. Overlaps are computed in
                the boxes' type.
            labels: for every image (N,) integers from 1; 0 is background, at -1 no class is trained.

        Raises:
            UsageError: Shapes or numbers of boxes and labels differ, or a corner is not finite or the minimum is above
                the maximum.
        """
        if len(boxes_xyxy) != len(labels) or not labels:
            raise UsageError(
                f"boxes of {len(boxes_xyxy)} images, labels of {len(labels)}; expected the same, 1 or more"
            )
        return merge([self._assign(*pair, at) for at, pair in enumerate(zip(boxes_xyxy, labels, strict=True))])

    def _assign(self, boxes_xyxy: Tensor, labels: Tensor, position: int) -> Targets:
        """Return the targets of one image of a batch."""
        _require_boxes(boxes_xyxy, labels, position)
        boxes = boxes_xyxy.detach().cpu()
        anchor, row = map(torch.from_numpy, self._grid.match(yxyx_to_xyxy(boxes).numpy()))
        deltas = encode_boxes_xyxy(boxes[row], self._anchors[anchor])
        classes = labels.detach().cpu().long()[row] - 1
        targets = Targets(torch.zeros_like(anchor), anchor, classes, deltas, torch.tensor([len(anchor)]))
        return targets.to(boxes_xyxy.device)


def moved(tensor: Tensor, device: torch.device | str) -> Tensor:
    """Return a tensor on a device. The CPU waits only if it is to have the values itself."""
    return tensor.to(device, non_blocking=torch.device(device).type != "cpu")


def merge(parts: Sequence[Targets]) -> Targets:
    """Return the targets of several batches, or images, as those of one batch, in their order."""
    batches = [len(part.positives) for part in parts]
    firsts = [sum(batches[:index]) for index in range(len(parts))]
    image = torch.cat([part.image + first for part, first in zip(parts, firsts, strict=True)])
    anchor, classes, boxes, positives = (torch.cat(tensors) for tensors in list(zip(*parts, strict=True))[1:])
    return Targets(image, anchor, classes, boxes, positives)


def _require_boxes(boxes_xyxy: Tensor, labels: Tensor, position: int) -> None:
    """Refuse boxes that would be assigned wrongly without a word."""
    where = f"image {position} of the batch"
    if boxes_xyxy.dim() != 2 or boxes_xyxy.shape[1] != 4 or labels.shape != boxes_xyxy.shape[:1]:
        found = f"boxes {tuple(boxes_xyxy.shape)} and labels {tuple(labels.shape)}"
        raise UsageError(f"{where}: {found}; expected (N, 4) and (N,)")
    if boxes_xyxy.dtype not in (torch.float32, torch.float64) or (len(labels) and labels.is_floating_point()):
        found = f"boxes are {boxes_xyxy.dtype}, labels {labels.dtype}"
        raise UsageError(f"{where}: {found}; expected float32 or float64 pixels, and integers")
    wrong = ~((boxes_xyxy[:, :2] <= boxes_xyxy[:, 2:]).all(dim=1) & boxes_xyxy.isfinite().all(dim=1))
    if wrong.any():
        box = boxes_xyxy[wrong][0].tolist()
        raise UsageError(
            f"{where}: box {box} is not (xmin, ymin, xmax, ymax); boxes by width and height need converting"
        )
    if len(labels) and labels.min() < -1:
        raise UsageError(f"{where}: label {labels.min().item()}; expected 1 or more, or 0 (background) or -1 (ignored)")
