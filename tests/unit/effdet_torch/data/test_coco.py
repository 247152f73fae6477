from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from effdet_torch.data.sources import read_split

from effdet_torch.errors import EvaluationError
from support.coco_samples import annotation, annotation_file, change_annotations, write_coco
from support.sources import small_config

CONFIG = small_config(image_size=(64, 64))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_coco(tmp_path / "coco")


@pytest.mark.parametrize(("name", "folder"), [("val2017", "val2017"), ("testdev", "test2017")])
def test_images_come_in_the_order_of_their_ids(tmp_path: Path, name: str, folder: str) -> None:
    split = read_split(write_coco(tmp_path, split=name), name)
    require_images(split)
    require_classes(split, CONFIG)
    assert split.image_ids == [3, 5, 7, 12]
    assert [image.path for image in split.images] == [tmp_path / folder / f"{x:012d}.jpg" for x in split.image_ids]
    assert split.first(2).image_ids == [3, 5]
    assert split.first(None) == split.first(99) == split


def test_a_folder_without_annotations_is_explained(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match=r"instances_val2017\.json cannot be read.*Expected COCO's layout"):
        read_split(tmp_path)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("{", "is not JSON"),
        ("[]", "no list 'images'"),
        ('{"images": [], "annotations": []}', "no list 'categories'"),
        ('{"images": [], "annotations": [], "categories": []}', "lists no images"),
        ('{"images": [{"id": 1}], "annotations": [], "categories": []}', "file_name"),
        ('{"images": [{"id": 1, "file_name": "../x.jpg"}], "annotations": [], "categories": []}', "leads out"),
        ('{"images": [{"id": 1, "file_name": "/x.jpg"}], "annotations": [], "categories": []}', "leads out"),
    ],
)
def test_a_damaged_annotation_file_is_refused(root: Path, content: str, problem: str) -> None:
    annotation_file(root).write_text(content)
    with pytest.raises(EvaluationError, match=problem):
        read_split(root)


def test_missing_images_are_listed(root: Path) -> None:
    split = read_split(root)
    for image in split.images[1:3]:
        image.path.unlink()
    with pytest.raises(EvaluationError, match=r"2 of 4 images .*000000000005\.jpg, 000000000007\.jpg\. "):
        require_images(split)
    require_images(split.first(1))
    change_annotations(root, images=[{"id": n, "file_name": f"{n}.jpg"} for n in range(9)])
    with pytest.raises(EvaluationError, match="and 4 more"):
        require_images(read_split(root))


@pytest.mark.parametrize(
    ("num_classes", "changes", "problem"),
    [
        (1, {}, "the ids 2 are not among the model's 1 to 1"),
        (2, {"categories": [{"id": 0}, {"id": 1}, {"id": 2}]}, "the ids 0 are not"),
        (2, {"categories": [{"id": 1}], "annotations": [annotation(1, 3, 2, (0, 0, 1, 1))]}, "lacks: 2"),
    ],
)
def test_category_ids_must_be_the_models_and_listed(
    root: Path, num_classes: int, changes: dict[str, Any], problem: str
) -> None:
    change_annotations(root, **changes)
    with pytest.raises(EvaluationError, match=problem):
        require_classes(read_split(root), small_config(num_classes=num_classes))
