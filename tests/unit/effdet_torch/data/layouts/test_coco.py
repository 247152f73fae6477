"""COCO annotation files: its own layout, a file beside a folder, Roboflow's folders."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from effdet_torch.data.files import check_images
from effdet_torch.data.sources import DataSource, read_split
from effdet_torch.errors import EvaluationError
from support.coco_samples import annotation_file, change_annotations, write_coco


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_coco(tmp_path / "coco")


@pytest.mark.parametrize(("name", "folder"), [("val2017", "val2017"), ("testdev", "test2017")])
def test_images_come_in_the_order_of_their_ids(tmp_path: Path, name: str, folder: str) -> None:
    split = check_images(read_split(write_coco(tmp_path, split=name), name))
    assert split.image_ids == [3, 5, 7, 12]
    assert [image.path for image in split.images] == [tmp_path / folder / f"{x:012d}.jpg" for x in split.image_ids]
    assert split.first(2).image_ids == [3, 5]
    assert {item.image_id for item in split.first(2).objects} <= {3, 5}
    assert split.first(None) == split.first(99) == split
    assert split.has_truth == (name != "testdev")


def test_the_content_is_what_pycocotools_takes(root: Path) -> None:
    content = json.loads(annotation_file(root).read_text())
    found = read_split(root).dataset
    assert [x["bbox"] for x in found["annotations"]] == [x["bbox"] for x in content["annotations"]]
    assert [x["id"] for x in found["annotations"]] == [1, 2, 3, 4]
    assert found["categories"] == content["categories"]
    assert {(x["id"], x["width"]) for x in found["images"]} == {(x["id"], x["width"]) for x in content["images"]}


def test_cocos_own_annotations_are_unchanged(shared: Path) -> None:
    content = json.loads((shared / "coco50" / "annotations" / "instances_val2017.json").read_text())
    split = check_images(read_split(shared / "coco50"))
    keys = ("image_id", "category_id", "bbox", "area", "iscrowd")
    expected = [tuple(x[key] for key in keys) for x in content["annotations"]]
    assert [tuple(x[key] for key in keys) for x in split.dataset["annotations"]] == expected
    assert split.notes == ()


def test_a_folder_without_annotations_is_explained(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match=r"instances_val2017\.json cannot be read.*Expected COCO's layout"):
        read_split(tmp_path)
    write_coco(tmp_path, split="train2017")
    with pytest.raises(EvaluationError, match="it has the splits train2017"):
        read_split(tmp_path)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("[]", "no list 'images'"),
        ('{"images": [], "annotations": []}', "no list 'categories'"),
        ('{"images": [], "annotations": [], "categories": []}', "lists no images"),
        ('{"images": [{"id": 1}], "annotations": [], "categories": []}', "without a file_name"),
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
    with pytest.raises(EvaluationError, match=r"image files are missing \(2\): 000000000005\.jpg, 000000000007\.jpg; "):
        check_images(split)
    check_images(split.first(1))
    names = [split.images[0].path.name, *(f"{n}.jpg" for n in range(98))]
    change_annotations(root, images=[{"id": n, "file_name": name} for n, name in enumerate(names)])
    with pytest.raises(EvaluationError, match="and 93 more"):
        check_images(read_split(root))


def test_a_wrong_folder_is_not_called_a_download_that_was_cut_short(root: Path, tmp_path: Path) -> None:
    def check(images: Path) -> None:
        check_images(DataSource(annotations=annotation_file(root), images=images).read().first(2))

    check(root / "val2017")  # negative control
    with pytest.raises(
        EvaluationError, match=rf"none of the images .*\(2\) is in .*they are in {root}/val2017: pass it"
    ):
        check(root)
    (tmp_path / "empty").mkdir()
    with pytest.raises(EvaluationError, match=r"none of the images .*; check --images"):
        check(tmp_path / "empty")
    with pytest.raises(EvaluationError, match=r"--images .* is not a folder"):
        check(annotation_file(root))


def test_images_in_a_folder_of_images(root: Path) -> None:
    (root / "images").mkdir()
    (root / "val2017").rename(root / "images" / "val2017")
    check_images(read_split(root))


def test_roboflow_has_a_folder_for_every_split(root: Path, tmp_path: Path) -> None:
    for split in ("train", "valid"):
        shutil.copytree(root / "val2017", tmp_path / "data" / split)
        shutil.copy(annotation_file(root), tmp_path / "data" / split / "_annotations.coco.json")
    data = tmp_path / "data"
    assert DataSource(data=data).read().name == "valid"
    assert DataSource(data=data / "train").read().name == "train"
    train = check_images(DataSource(data=data).read("train"))
    assert train.images[0].path.parent == data / "train"
    with pytest.raises(EvaluationError, match=r"no _annotations.coco.json in test; choose a --split"):
        DataSource(data=data).read("test")
