"""The operations of AutoAugment by name: what they do, and what a level of 0 to 10 means for each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from effdet_torch.train.input.autoaugment import moves, pixels, regions
from effdet_torch.train.input.example import Boxes, Pixels

Picture = tuple[Pixels, Boxes]
Random = np.random.Generator
MOST = 10  # the highest level of a policy; RandAugment goes beyond
IN_BOX_DIVISOR = 3  # operations on single boxes have their probability divided by this


class Operation(NamedTuple):
    """An operation.

    Attributes:
        run: takes image, boxes (N, 4) as fractions, argument and random numbers; returns image and boxes.
        argument: of a level.
        is_signed: whether the argument is negated in half of the cases.
        in_boxes: whether it changes the contents of boxes, each with the probability of its own.
    """

    run: Callable[[Pixels, Boxes, Any, Random], Picture]
    argument: Callable[[float], float]
    is_signed: bool = False
    in_boxes: bool = False

    def apply(self, picture: Picture, probability: float, level: float, random: Random) -> Picture:
        """Run the operation with a probability."""
        argument = self.argument(level)
        if self.is_signed and random.random() < 0.5:
            argument = -argument
        if not self.in_boxes:
            return self.run(*picture, argument, random) if random.random() < probability else picture
        image, boxes = picture

        def change(content: Pixels) -> Pixels:
            return self.run(content, boxes, argument, random)[0]

        return regions.in_boxes(image, boxes, probability / IN_BOX_DIVISOR, change, random), boxes


def _share_of(most: float) -> Callable[[float], float]:
    return lambda level: most * (level / MOST)


def _whole_share_of(most: int) -> Callable[[float], float]:
    return lambda level: int(level / MOST * most)


def _enhancement(level: float) -> float:
    return level / MOST * 1.8 + 0.1


def _none(level: float) -> float:
    return 0.0


def _plain(function: Callable[[Pixels], Pixels]) -> Callable[..., Picture]:
    return lambda image, boxes, argument, random: (function(image), boxes)


def _colors(function: Callable[[Pixels, Any], Pixels]) -> Callable[..., Picture]:
    return lambda image, boxes, argument, random: (function(image, argument), boxes)


def _moves(
    function: Callable[[Pixels, float], Pixels], of_boxes: Callable[[Boxes, Pixels, float], Boxes]
) -> Callable[..., Picture]:
    return lambda image, boxes, argument, random: (function(image, argument), of_boxes(boxes, image, argument))


def _cutout(image: Pixels, boxes: Boxes, argument: int, random: Random) -> Picture:
    return regions.cutout(image, argument, random), boxes


def _box_cutout(image: Pixels, boxes: Boxes, argument: float, random: Random) -> Picture:
    return regions.box_cutout(image, boxes, argument, random), boxes


def _mirrored(image: Pixels) -> Pixels:
    return image[:, ::-1]


SHIFT_X, SHIFT_Y = _moves(moves.shift_x, moves.shift_boxes_x), _moves(moves.shift_y, moves.shift_boxes_y)
SHEAR_X, SHEAR_Y = _moves(moves.shear_x, moves.shear_boxes_x), _moves(moves.shear_y, moves.shear_boxes_y)
OPERATIONS: Mapping[str, Operation] = {
    "AutoContrast": Operation(_plain(pixels.auto_contrast), _none),
    "Equalize": Operation(_plain(pixels.equalize), _none),
    "Posterize": Operation(_colors(pixels.posterize), _whole_share_of(4)),
    "Solarize": Operation(_colors(pixels.solarize), _whole_share_of(256)),
    "SolarizeAdd": Operation(_colors(pixels.solarize_add), _whole_share_of(110)),
    "Color": Operation(_colors(pixels.color), _enhancement),
    "Contrast": Operation(_colors(pixels.contrast), _enhancement),
    "Brightness": Operation(_colors(pixels.brightness), _enhancement),
    "Sharpness": Operation(_colors(pixels.sharpness), _enhancement),
    "Cutout": Operation(_cutout, _whole_share_of(100)),
    "BBox_Cutout": Operation(_box_cutout, _share_of(0.75)),
    "TranslateX_BBox": Operation(SHIFT_X, _share_of(250), is_signed=True),
    "TranslateY_BBox": Operation(SHIFT_Y, _share_of(250), is_signed=True),
    "ShearX_BBox": Operation(SHEAR_X, _share_of(0.3), is_signed=True),
    "ShearY_BBox": Operation(SHEAR_Y, _share_of(0.3), is_signed=True),
    "Rotate_BBox": Operation(_moves(moves.rotate, moves.rotate_boxes), _share_of(30), is_signed=True),
    "TranslateY_Only_BBoxes": Operation(SHIFT_Y, _share_of(120), is_signed=True, in_boxes=True),
    "ShearX_Only_BBoxes": Operation(SHEAR_X, _share_of(0.3), is_signed=True, in_boxes=True),
    "ShearY_Only_BBoxes": Operation(SHEAR_Y, _share_of(0.3), is_signed=True, in_boxes=True),
    "Flip_Only_BBoxes": Operation(_plain(_mirrored), _none, in_boxes=True),
    "Equalize_Only_BBoxes": Operation(_plain(pixels.equalize), _none, in_boxes=True),
    "Solarize_Only_BBoxes": Operation(_colors(pixels.solarize), _whole_share_of(256), in_boxes=True),
    "Cutout_Only_BBoxes": Operation(_cutout, _whole_share_of(50), in_boxes=True),
}
