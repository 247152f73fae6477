"""The images and objects of a data set as a few arrays, which processes share without copying them.

A list of Python objects would be copied into every worker, page by page, because reading an object counts a reference
to it. OpenImages has 1.7 million images and 15 million objects.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from effdet_torch.data.dataset import DataSet
from effdet_torch.errors import EvaluationError
from effdet_torch.inference.images import read_image
from effdet_torch.train.input.example import Example
from effdet_torch.untrusted.files import FilePart


class Samples:
    """The images of a data set in the order of their ids, and the objects that are trained.

    Args:
        data: its category ids are the labels, from 1.
        keep_crowds: whether objects that stand for several are trained as objects, not dropped.

    Raises:
        EvaluationError: There are no images.
    """

    def __init__(self, data: DataSet, keep_crowds: bool = False) -> None:
        if not data.images:
            raise EvaluationError(f"{data.path} has no images to train on; expected at least one")
        self.image_ids = np.array(data.image_ids, np.int64)  # (N,)
        self._paths = _Texts(os.fsencode(image.path) for image in data.images)
        parts = [image.part for image in data.images]
        # (N, 2), offset and number of bytes inside the file; 0 bytes: the whole file.
        self._parts = np.array([(part.offset, part.size) if part else (0, 0) for part in parts], np.int64)
        self._names = _Texts((part.name if part else "").encode("utf-8", "surrogatepass") for part in parts)
        self._sizes = np.array([image.size or (0, 0) for image in data.images], np.int64)  # (N, 2), width and height
        self._turned = np.array([image.turned for image in data.images], np.bool_)
        objects = [item for item in data.objects if keep_crowds or not item.is_crowd]
        owners = np.fromiter((item.image_id for item in objects), np.int64, len(objects))
        by_image = np.argsort(owners, kind="stable")  # rows of an image keep their order, which decides ties
        self._starts = np.searchsorted(owners[by_image], self.image_ids)
        self._ends = np.searchsorted(owners[by_image], self.image_ids, side="right")
        self._boxes = np.array([item.bbox for item in objects], np.float64).reshape(-1, 4)[by_image]
        self._labels = np.fromiter((item.category_id for item in objects), np.int64, len(objects))[by_image]

    def __len__(self) -> int:
        return len(self.image_ids)

    def source(self, index: int) -> Path | FilePart:
        """Return the file of an image, or where in a file it is."""
        path, (offset, size) = Path(os.fsdecode(self._paths[index])), self._parts[index].tolist()
        return FilePart(path, offset, size, self._names[index].decode("utf-8", "surrogatepass")) if size else path

    def read(self, index: int) -> Example:
        """Read an image; boxes that have no part in it are left out.

        Raises:
            ImageError: The file cannot be read; names it.
        """
        image = read_image(self.source(index), apply_exif=bool(self._turned[index]))
        width, height = self._sizes[index] if self._sizes[index].all() else (image.shape[1], image.shape[0])
        rows = slice(self._starts[index], self._ends[index])
        x, y, box_width, box_height = self._boxes[rows].T
        corners = np.stack((y / height, x / width, (y + box_height) / height, (x + box_width) / width), axis=1)
        corners = np.clip(corners, 0, 1)
        kept = (corners[:, 2:] > corners[:, :2]).all(axis=1)  # AutoAugment would widen the others
        return Example(image, corners[kept].astype(np.float32), self._labels[rows][kept])


class _Texts:
    """Many texts in two arrays."""

    def __init__(self, texts: Iterable[bytes]) -> None:
        items = list(texts)
        self._bytes: NDArray[np.uint8] = np.frombuffer(b"".join(items), np.uint8)
        self._ends = np.cumsum([0, *map(len, items)], dtype=np.int64)

    def __getitem__(self, index: int) -> bytes:
        return self._bytes[self._ends[index] : self._ends[index + 1]].tobytes()
