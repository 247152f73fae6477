"""What a data set holds, in numbers."""

from __future__ import annotations

from pathlib import Path

import pytest

from effdet_torch.data.dataset import DataImage, DataObject, DataSet
from effdet_torch.data.training.statistics import ClassCount, describe, training_notes


def data_set(*boxes: tuple[int, int, float, bool], sizes: tuple[tuple[int, int], ...] = ((40, 20),) * 3) -> DataSet:
    """A data set of boxes (image, class, side in pixels, whether it is a crowd)."""
    images = tuple(DataImage(n, Path(f"{n}.jpg"), size) for n, size in enumerate(sizes, start=1))
    objects = tuple(DataObject(n, label, (0, 0, side, 9), 1, crowd) for n, label, side, crowd in boxes)
    return DataSet("train", Path("x"), images, {1: "cat", 2: ""}, objects)


def kinds(data: DataSet, image_size: tuple[int, int] = (30, 40)) -> dict[str, tuple[int, tuple[str, ...]]]:
    return {note.kind: (note.count, note.examples) for note in training_notes(data, image_size)}


def test_counts() -> None:
    boxes = ((1, 1, 9, False), (1, 1, 9, False), (2, 1, 9, False), (2, 2, 9, True))
    found = describe(data_set(*boxes, sizes=((40, 20), (10, 10), (9, 90), (8, 8))))
    assert (found.split, found.images, found.empty, found.boxes, found.crowds, found.most_boxes) == (
        "train", 4, 2, 3, 1, 2,
    )  # fmt: skip
    assert (found.smallest, found.median, found.largest) == ((8, 8), (40, 20), (9, 90))
    assert found.classes == (ClassCount(1, "cat", 2, 3, 0), ClassCount(2, "", 1, 0, 1))


def test_nothing_to_say() -> None:
    assert kinds(data_set((1, 1, 9, False), (2, 1, 9, False), (3, 2, 9, False))) == {}


def test_images_without_boxes() -> None:
    found = kinds(data_set((1, 1, 9, False), (2, 1, 9, True)))
    assert found == {"image without boxes": (2, ("2.jpg", "3.jpg")), "crowd": (1, ("2.jpg",))}


@pytest.mark.parametrize(("count", "expected"), [(99, {}), (100, {"image with many boxes": (1, ("1.jpg: 100",))})])
def test_many_boxes(count: int, expected: dict[str, object]) -> None:
    assert kinds(data_set(*[(1, 1, 9, False)] * count, (2, 1, 9, False), (3, 1, 9, False))) == expected


@pytest.mark.parametrize(
    ("image_size", "expected"),
    [
        ((20, 40), {"box tiny": (1, ("1.jpg: 0.50 x 9.00 pixels",))}),  # (height, width)
        ((40, 20), {"box tiny": (1, ("1.jpg: 0.25 x 4.50 pixels",))}),
        ((39, 79), {"box tiny": (1, ("1.jpg: 0.97 x 17.55 pixels",))}),
        ((40, 80), {"image enlarged": (1, ("1.jpg",))}),
    ],
)
def test_the_image_size(image_size: tuple[int, int], expected: dict[str, object]) -> None:
    assert kinds(data_set((1, 1, 0.5, False), sizes=((40, 20),)), image_size) == expected
