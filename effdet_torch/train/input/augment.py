"""Augmentations by name. They run in the order of the table, whatever the order in which they are named."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from effdet_torch.errors import ConfigError
from effdet_torch.train.input import mosaic
from effdet_torch.train.input.autoaugment.policies import POLICIES, apply_policy
from effdet_torch.train.input.example import Example
from effdet_torch.train.input.grid_mask import grid_mask

NOTHING = "none"


class Draw(NamedTuple):
    """What an augmentation needs beside its image.

    Attributes:
        random: the numbers of this image in this epoch.
        jitter: least and greatest scale.
        size: (height, width) of the network input.
        another: reads any other image of the data set.
    """

    random: np.random.Generator
    jitter: tuple[float, float]
    size: tuple[int, int]
    another: Callable[[], Example]


class Augmentation(NamedTuple):
    """An augmentation.

    Attributes:
        run: takes an example and what else it needs; returns another example.
        is_official: whether the official training has it.
    """

    run: Callable[[Example, Draw], Example]
    is_official: bool = True


def _mosaic(example: Example, draw: Draw) -> Example:
    if draw.random.random() >= mosaic.SHARE:
        return example
    parts = [example, *(draw.another() for _ in range(mosaic.PARTS - 1))]
    order = draw.random.permutation(mosaic.PARTS)
    return mosaic.mosaic([parts[i] for i in order], draw.size, mosaic.dividing_point(draw.size, draw.random))


def _grid_mask(example: Example, draw: Draw) -> Example:
    return example._replace(image=grid_mask(example.image, draw.random))


def _policy(name: str, example: Example, draw: Draw) -> Example:
    image, boxes = apply_policy(POLICIES[name], (example.image, example.boxes), draw.random)
    return example._replace(image=image, boxes=boxes)


def _flip(example: Example, draw: Draw) -> Example:
    return example._replace(view=example.view._replace(flip=draw.random.random() > 0.5))


def _scale(example: Example, draw: Draw) -> Example:
    y, x = draw.random.random(2)
    return example._replace(view=example.view._replace(scale=draw.random.uniform(*draw.jitter), offsets=(y, x)))


AUGMENTATIONS: Mapping[str, Augmentation] = {
    "mosaic": Augmentation(_mosaic, is_official=False),
    "gridmask": Augmentation(_grid_mask),
    **{name: Augmentation(partial(_policy, name)) for name in POLICIES},
    "flip": Augmentation(_flip),
    "scale": Augmentation(_scale),
}


def parse_augment(text: str, official: bool = False) -> tuple[str, ...]:
    """Return the names of a comma-separated list in the order in which they run; "none" and "" are an empty list.

    Args:
        text: for example "flip,scale,autoaugment-v0".
        official: refuse what the official training does not have.

    Raises:
        ConfigError: A name is unknown or not official (lists all of them), or there are several policies.
    """
    names = [name.strip() for name in text.split(",") if name.strip() not in ("", NOTHING)]
    return ordered(names, official)


def ordered(names: Sequence[str], official: bool = False) -> tuple[str, ...]:
    """Return names of augmentations in the order in which they run, each once; see `parse_augment`."""
    known = [name for name, row in AUGMENTATIONS.items() if row.is_official or not official]
    if unknown := [name for name in names if name not in known]:
        reason = "is not a part of the official recipe" if unknown[0] in AUGMENTATIONS else "is unknown"
        raise ConfigError(f"augmentation {unknown[0]!r} {reason}; expected {NOTHING}, or a list of: {', '.join(known)}")
    if len(policies := [name for name in names if name in POLICIES]) > 1:
        raise ConfigError(f"augmentations {' and '.join(policies)} exclude each other; choose one policy")
    return tuple(name for name in known if name in names)


def augment(example: Example, names: Sequence[str], draw: Draw) -> Example:
    """Run augmentations, in the order that `ordered` returns."""
    for name in names:
        example = AUGMENTATIONS[name].run(example, draw)
    return example
