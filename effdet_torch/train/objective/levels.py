"""Where the targets lie in the network's outputs, level by level."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from effdet_torch.config import EfficientDetConfig
from effdet_torch.train.objective.targets import IGNORED, Targets, moved

Index = tuple[Tensor, Tensor, Tensor, Tensor]  # entries of (B, C, H, W)
COORDINATES = 4


class Level(NamedTuple):
    """One level of a config: its first anchor, the size of its feature map, and what a location has."""

    start: int
    rows: int
    columns: int
    per_location: int
    num_classes: int

    @property
    def anchors(self) -> int:
        """Number of anchors."""
        return self.rows * self.columns * self.per_location

    @property
    def shapes(self) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
        """Shapes (channels, H, W) of the class logits and box deltas of an image."""
        channels = self.per_location * self.num_classes, self.per_location * COORDINATES
        return (channels[0], self.rows, self.columns), (channels[1], self.rows, self.columns)

    def part(self, targets: Targets) -> LevelTargets:
        """Return the targets of this level's anchors."""
        local = targets.anchor - self.start
        is_here = (local >= 0) & (local < self.anchors)
        image, _, classes, boxes = (tensor[is_here] for tensor in targets[:4])
        local = local[is_here]
        cell, place = local // self.per_location, local % self.per_location
        position = len(targets.positives) * self.start + image * self.anchors + local
        return LevelTargets(
            self.num_classes, image, place, cell // self.columns, cell % self.columns, position, classes, boxes
        )


class LevelTargets(NamedTuple):
    """The targets at a level's anchors.

    Attributes:
        image, place, y, x: (K,) place is the number of the anchor among those of its location.
        position: (K,) among the anchors of all images, level after level.
        classes: (K,) class channels, see `Targets`.
        boxes: (K, 4) deltas.
    """

    num_classes: int
    image: Tensor
    place: Tensor
    y: Tensor
    x: Tensor
    position: Tensor
    classes: Tensor
    boxes: Tensor

    def objects(self, device: torch.device) -> Index:
        """Return the class logits whose target is 1, (K,) each."""
        is_object = (self.classes >= 0) & (self.classes < self.num_classes)
        channel = self.place * self.num_classes + self.classes
        return _moved((self.image[is_object], channel[is_object], self.y[is_object], self.x[is_object]), device)

    def ignored(self, device: torch.device) -> Index:
        """Return the class logits that are not trained: (K, 1), and (K, classes) of the channels."""
        return self._all_of(self.num_classes, self.classes == IGNORED, device)

    def deltas(self, device: torch.device) -> Index:
        """Return the four deltas of every target: (K, 1), and (K, 4) of the channels."""
        return self._all_of(COORDINATES, torch.ones_like(self.classes, dtype=torch.bool), device)

    def _all_of(self, channels: int, is_meant: Tensor, device: torch.device) -> Index:
        """Return all channels that belong to some anchors."""
        image, place, y, x = (tensor[is_meant, None] for tensor in (self.image, self.place, self.y, self.x))
        channel = place * channels + torch.arange(channels, device=place.device)
        return _moved((image, channel, y, x), device)


def make_levels(config: EfficientDetConfig) -> list[Level]:
    """Return the levels of a config, fine to coarse, in the order of its anchors."""
    levels: list[Level] = []
    start = 0
    for rows, columns in config.feature_sizes().values():
        levels.append(Level(start, rows, columns, config.anchors_per_location, config.num_classes))
        start += levels[-1].anchors
    return levels


def _moved(index: Index, device: torch.device) -> Index:
    image, channel, y, x = (moved(tensor, device) for tensor in index)
    return image, channel, y, x
