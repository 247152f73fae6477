from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader

from effdet_torch.data.coco_dataset import CocoImages, read_split, require_classes, require_images
from effdet_torch.errors import EvaluationError
from effdet_torch.inference.images import read_image
from effdet_torch.inference.preprocess import preprocess
from support.coco_samples import annotation, annotation_file, change_annotations, write_coco
from support.sources import small_config

CONFIG = small_config(image_size=(64, 64))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_coco(tmp_path / "coco")


def test_images_come_in_the_order_of_their_ids(root: Path) -> None:
    split = read_split(root)
    assert split.image_ids == [3, 5, 7, 12]
    assert [image.path.name for image in split.images] == [f"{x:012d}.jpg" for x in split.image_ids]
    assert split.first(2).image_ids == [3, 5]
    assert split.first(None) == split.first(99) == split
    require_images(split)
    require_classes(split, CONFIG)


def test_testdev_has_its_own_names(tmp_path: Path) -> None:
    split = read_split(write_coco(tmp_path, split="testdev"), "testdev")
    require_images(split)
    require_classes(split, CONFIG)
    assert {image.path.parent.name for image in split.images} == {"test2017"}


@pytest.mark.parametrize("workers", [0, 2])
def test_items_are_network_input(root: Path, workers: int) -> None:
    split = read_split(root)
    batches = list(DataLoader(CocoImages(split.images, CONFIG), batch_size=3, num_workers=workers))
    ids, pixels, scales = (torch.cat(column) for column in zip(*batches, strict=True))
    expected_pixels, expected_scales = preprocess([read_image(image.path) for image in split.images], CONFIG)
    assert ids.tolist() == split.image_ids
    assert torch.equal(pixels, expected_pixels)
    assert torch.equal(scales, expected_scales)  # in float32, or boxes would become float64


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


def test_a_long_list_of_missing_images_is_cut(root: Path) -> None:
    change_annotations(root, images=[{"id": n, "file_name": f"{n}.jpg"} for n in range(9)])
    with pytest.raises(EvaluationError, match="and 4 more"):
        require_images(read_split(root))


def test_category_ids_must_be_the_models(root: Path) -> None:
    with pytest.raises(EvaluationError, match="the ids 2 are not among the model's 1 to 1"):
        require_classes(read_split(root), small_config(num_classes=1))
    change_annotations(root, categories=[{"id": 0}, {"id": 1}, {"id": 2}])
    with pytest.raises(EvaluationError, match="the ids 0 are not"):
        require_classes(read_split(root), CONFIG)


def test_annotations_must_use_listed_categories(root: Path) -> None:
    change_annotations(root, categories=[{"id": 1}], annotations=[annotation(1, 3, 2, (0, 0, 1, 1))])
    with pytest.raises(EvaluationError, match="lacks: 2"):
        require_classes(read_split(root), CONFIG)
