"""What was found in one image."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple, overload

import numpy as np
from numpy.typing import NDArray

from effdet_torch.errors import UsageError
from effdet_torch.geometry.numpy_boxes import xyxy_to_xywh
from effdet_torch.inference.images import ImageSource

if TYPE_CHECKING:
    import torch
    from typing_extensions import Self


class Detection(NamedTuple):
    """One object that was found.

    Attributes:
        name: of the category.
        score: 0..1.
        box_xyxy: (xmin, ymin, xmax, ymax) in pixels of the original image.
        category_id: class channel + 1.
    """

    name: str
    score: float
    box_xyxy: tuple[float, float, float, float]
    category_id: int


@dataclass(frozen=True, eq=False)
class Detections:
    """What was found in one image, best first.

    `len(found)` is the number of detections; iteration gives one `Detection` after another, `found[0]` gives one of
    them, and `found[:5]` or `found[found.scores > 0.5]` some of them.

    Attributes:
        boxes_xyxy: (N, 4) float32 as (xmin, ymin, xmax, ymax) in pixels of the original image.
        scores: (N,) float32, 0..1.
        category_ids: (N,) int64, class channel + 1: COCO's ids for the official models.
        names: of the N categories.
        mask: (height, width) of the original image, the class of every pixel, from 0; uint8 or uint16. None without a
            segmentation head.
        size: (height, width) of the original image in pixels; None if it is unknown.
        source: the image as it was passed to the predictor, so that it can be drawn; None if it is not kept.
    """

    boxes_xyxy: NDArray[np.float32]
    scores: NDArray[np.float32]
    category_ids: NDArray[np.int64]
    names: list[str]
    mask: NDArray[Any] | None = None
    size: tuple[int, int] | None = None
    source: ImageSource | None = None

    @classmethod
    def none(cls) -> Self:
        """Return no detections."""
        return cls(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64), [])

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[Detection]:
        arrays = self.numpy()
        boxes_xyxy = (tuple(box) for box in arrays.boxes_xyxy.tolist())
        columns = zip(self.names, arrays.scores.tolist(), boxes_xyxy, arrays.category_ids.tolist(), strict=True)
        return (Detection(*row) for row in columns)

    @overload
    def __getitem__(self, index: int) -> Detection: ...
    @overload
    def __getitem__(self, index: slice | Sequence[int] | NDArray[Any]) -> Self: ...
    def __getitem__(self, index: Any) -> Detection | Self:
        index = as_array(index)
        if isinstance(index, bool | np.bool_):
            raise UsageError(
                "True or False chooses no detections; names is a list, so compare np.array(found.names) instead"
            )
        if not isinstance(index, slice) and np.ndim(index) == 0:
            return list(self)[operator.index(index)]
        places = np.arange(len(self))[index if isinstance(index, slice) else np.asarray(index)]
        return replace(
            self,
            boxes_xyxy=self.boxes_xyxy[places],
            scores=self.scores[places],
            category_ids=self.category_ids[places],
            names=[self.names[place] for place in places.tolist()],
        )

    def __str__(self) -> str:
        size = "" if self.size is None else f" in {self.size[1]} x {self.size[0]} pixels"
        rows = (f"{name} {score:.2f} [{', '.join(f'{side:.0f}' for side in box)}]" for name, score, box, _ in self)
        return "\n".join((f"{len(self)} detection{'' if len(self) == 1 else 's'}{size}", *rows))

    def to(self, device: torch.device | str) -> Self:
        """Return the same with tensors on a device in place of arrays; all methods work with them, too.

        On the CPU the tensors share their memory with the arrays, as those of `torch.as_tensor` do.
        """
        import torch

        def moved(array: Any) -> Any:
            return torch.as_tensor(array, device=device)

        mask = None if self.mask is None else moved(self.mask)
        boxes_xyxy, scores, category_ids = map(moved, (self.boxes_xyxy, self.scores, self.category_ids))
        return replace(self, boxes_xyxy=boxes_xyxy, scores=scores, category_ids=category_ids, mask=mask)

    def numpy(self) -> Self:
        """Return the same with arrays, as a predictor gives it."""
        mask = None if self.mask is None else as_array(self.mask)
        boxes_xyxy, scores, category_ids = map(as_array, (self.boxes_xyxy, self.scores, self.category_ids))
        return replace(self, boxes_xyxy=boxes_xyxy, scores=scores, category_ids=category_ids, mask=mask)

    def mask_shares(self) -> dict[int, float]:
        """Return {class: its share of the pixels, 0..1} of the classes in the mask; {} if there is none."""
        if self.mask is None:
            return {}
        classes, counts = np.unique(as_array(self.mask), return_counts=True)
        return dict(zip(classes.tolist(), (counts / counts.sum()).tolist(), strict=True))

    def to_coco(self, image_id: int | str) -> list[dict[str, Any]]:
        """Return the detections as entries of a COCO results file; `bbox` is (xmin, ymin, width, height)."""
        arrays = self.numpy()
        columns = (array.tolist() for array in (arrays.category_ids, xyxy_to_xywh(arrays.boxes_xyxy), arrays.scores))
        return [
            {"image_id": image_id, "category_id": category_id, "bbox": box_xywh, "score": score}
            for category_id, box_xywh, score in zip(*columns, strict=True)
        ]


def as_array(values: Any) -> Any:
    """Return a tensor on any device as an array, and anything else as it is."""
    return values.numpy(force=True) if hasattr(values, "detach") else values
