"""Boxes that are written in another form than they are read in: a training or an evaluation with them would run.

Boxes of another form leave their images. They are refused where one of the forms that people mix up puts all of them
inside; what is left outside is counted. What lies wholly outside cannot be found: pycocotools does not know the sizes
of images, and counts it as missed. It cannot be trained either.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from effdet_torch.data.dataset import DataObject, DataSet
from effdet_torch.data.rules import Findings

Boxes = NDArray[np.float64]  # (N, 4)

LEAST_BOXES = 5  # fewer may lie outside for any reason
MOST_OUTSIDE = 0.5  # share of the boxes as they are read, and a hundredth of it in a form that explains them
MARGIN = 0.01  # of the image's side, and one pixel: tools round
LARGEST_SHARE = 1.01  # rounded as well
UNKNOWN = (np.inf, np.inf)  # size of an image
SMALLEST_SIDE = 16  # px: below, a box may well have less than a pixel

# Kind of fault -> from the four numbers as written to [xmin, ymin, xmax, ymax], if they are in that form.
FORMS: Mapping[str, Callable[[Boxes], Boxes]] = {
    "box as corners": lambda box: box,
    "box as corners, y first": lambda box: box[:, [1, 0, 3, 2]],
    "box as y, x, height, width": lambda box: _corners(box[:, [1, 0, 3, 2]]),
    "box by its centre": lambda box: _corners(box - np.pad(box[:, 2:] / 2, ((0, 0), (0, 2)))),
}


def look_at_boxes(data: DataSet, found: Findings) -> None:
    """Compare all boxes with the sizes of their images; what is wrong is added to `found`."""
    sizes = {image.image_id: image.size for image in data.images if image.size is not None}
    items = [item for item in data.objects if item.image_id in sizes]
    if not items:
        return
    boxes = np.array([item.bbox for item in items])
    frames = np.array([sizes[item.image_id] for item in items], float)
    kind, outside = _form(boxes, frames) if len(items) >= LEAST_BOXES else ("box outside", np.zeros(len(items), bool))
    beyond = np.zeros(len(items), bool)
    if kind == "box outside":
        beyond = _miss(boxes, frames) & ~np.array([item.is_crowd for item in items])
    names = {image.image_id: image.name for image in data.images}
    for name, places in ((kind, outside & ~beyond), ("box beyond", beyond)):
        for item in (items[position] for position in np.flatnonzero(places).tolist()):
            found.add(name, f"{names[item.image_id]}: {[round(side, 2) for side in item.bbox]}")
    if beyond.any() and not trainable(data):
        found.add_all("no object inside", names.values())


def trainable(data: DataSet) -> list[DataObject]:
    """Return the objects that can be trained: single ones that have a part in their images."""
    items = [item for item in data.objects if not item.is_crowd]
    if not items:
        return []
    sizes = {image.image_id: image.size for image in data.images}
    frames = np.array([sizes.get(item.image_id) or UNKNOWN for item in items], float)
    is_missed = _miss(np.array([item.bbox for item in items]), frames).tolist()
    return [item for item, missed in zip(items, is_missed, strict=True) if not missed]


def _form(boxes: Boxes, frames: NDArray[np.float64]) -> tuple[str, NDArray[np.bool_]]:
    """Return the kind of fault that the boxes have, and which of them, (N,)."""
    outside = _leave(_corners(boxes), frames)
    if (boxes <= LARGEST_SHARE).all() and (frames >= SMALLEST_SIDE).all():
        return "box as shares", np.ones(len(boxes), bool)
    fitting = (form for form, corners in FORMS.items() if _fit(corners(boxes), frames))
    return next(fitting, "box outside") if outside.mean() > MOST_OUTSIDE else "box outside", outside


def _miss(boxes: Boxes, frames: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return which boxes have no part in their images, (N,)."""
    corners = _corners(boxes)
    return np.asarray(((corners[:, 2:] <= 0) | (corners[:, :2] >= frames)).any(axis=1))


def _corners(boxes: Boxes) -> Boxes:
    """Return (x, y, width, height) as (xmin, ymin, xmax, ymax)."""
    return np.concatenate((boxes[:, :2], boxes[:, :2] + boxes[:, 2:]), axis=1)


def _leave(corners: Boxes, frames: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return which boxes reach out of their images, (N,)."""
    margins = frames * MARGIN + 1
    is_inside = (corners[:, :2] >= -margins) & (corners[:, 2:] <= frames + margins)
    return np.asarray(~is_inside.all(axis=1))


def _fit(corners: Boxes, frames: NDArray[np.float64]) -> bool:
    """Whether the boxes have a size and lie inside of their images."""
    is_empty = (corners[:, 2:] <= corners[:, :2]).any(axis=1)
    return bool((_leave(corners, frames) | is_empty).mean() <= MOST_OUTSIDE / 100)
