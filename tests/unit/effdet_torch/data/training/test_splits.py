"""Which images are for training and which for validation."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from effdet_torch.data.dataset import DataImage, DataObject, DataSet
from effdet_torch.data.layouts.split_names import TRAINING, VALIDATION, pick
from effdet_torch.data.rules import Note
from effdet_torch.data.training.splits import divide, train_and_val
from effdet_torch.errors import EvaluationError, UsageError
from support.coco_samples import write_coco

XML = "<annotation><object><name>cat</name><bndbox>{}</bndbox></object></annotation>".format(
    "".join(
        f"<{side}>{value}</{side}>" for side, value in zip(("xmin", "ymin", "xmax", "ymax"), (1, 2, 9, 8), strict=True)
    )
)


def picture(path: Path, color: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (40, 20), (color, 0, 0)).save(path)


def coco(root: Path) -> None:
    write_coco(root, (1, 2), "train2017")
    write_coco(root, (3, 4, 5), "val2017")
    for path in (root / "train2017").iterdir():
        picture(path, 9)
        Image.open(path).resize({1: (64, 48), 2: (40, 64)}[int(path.stem)]).save(path)


def roboflow(root: Path) -> None:
    for split, annotated in (("train", "train2017"), ("valid", "val2017")):
        coco(root / "made")
        shutil.copytree(root / "made" / annotated, root / split)
        shutil.copy(
            root / "made" / "annotations" / f"instances_{annotated}.json", root / split / "_annotations.coco.json"
        )
        shutil.rmtree(root / "made")


def yolo(root: Path) -> None:
    for split, names in (("train", ("1", "2")), ("val", ("3", "4", "5"))):
        for name in names:
            picture(root / "images" / split / f"{name}.png", int(name))
            (root / "labels" / split).mkdir(parents=True, exist_ok=True)
            (root / "labels" / split / f"{name}.txt").write_text("0 .5 .5 .2 .2")
    (root / "data.yaml").write_text("train: images/train\nval: images/val\nnames: [cat]\n")


def voc(root: Path) -> None:
    for folder in ("Annotations", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    for number in range(1, 6):
        picture(root / "JPEGImages" / f"{number}.png", number)
        (root / "Annotations" / f"{number}.xml").write_text(XML)
    for split, text in (("train", "1\n2\n"), ("val", "3\n4\n5\n"), ("trainval", "1\n2\n3\n4\n5\n")):
        (root / "ImageSets" / "Main" / f"{split}.txt").write_text(text)


def kinds(notes: tuple[Note, ...]) -> dict[str, int]:
    return {note.kind: note.count for note in notes}


@pytest.mark.parametrize("layout", [coco, roboflow, yolo, voc])
def test_every_layout_has_both(tmp_path: Path, layout: object) -> None:
    layout(tmp_path)  # type: ignore[operator]
    train, val, notes = train_and_val(tmp_path)
    assert (train.image_ids, val.image_ids, notes) == ([1, 2], [3, 4, 5], ())
    swapped = train_and_val(tmp_path, train=val.name, val=train.name)
    assert (swapped[0].image_ids, swapped[1].image_ids) == ([3, 4, 5], [1, 2])


def test_one_split_alone(tmp_path: Path) -> None:
    train, val, notes = train_and_val(write_coco(tmp_path))
    assert train == val
    assert kinds(notes) == {"one split": 4}
    assert "how well they were memorised" in notes[0].sentence


def test_the_only_split_may_have_any_name(tmp_path: Path) -> None:
    train, val, notes = train_and_val(write_coco(tmp_path, split="mine"))
    assert (train.name, train == val, kinds(notes)) == ("mine", True, {"one split": 4})
    write_coco(tmp_path, split="other")
    with pytest.raises(EvaluationError, match=r"it has the splits mine, other"):
        train_and_val(tmp_path)


def test_a_folder_without_splits(tmp_path: Path) -> None:
    picture(tmp_path / "a.png", 1)
    (tmp_path / "a.xml").write_text(XML)
    train, val, notes = train_and_val(tmp_path)
    assert (train == val, kinds(notes)) == (True, {"one split": 1})


def test_a_part_of_the_training_images(tmp_path: Path) -> None:
    coco(tmp_path)
    train, val, notes = train_and_val(tmp_path, 0.5)
    assert sorted(train.image_ids + val.image_ids) == [1, 2]
    assert kinds(notes) == {"split unused": 1, "split divided": 1}
    assert {item.image_id for item in val.objects} == set(val.image_ids)
    with pytest.raises(UsageError, match=r"one of --val-split 0\.5 and the split 'val2017'"):
        train_and_val(tmp_path, 0.5, val="val2017")


def test_nothing_to_train(tmp_path: Path) -> None:
    coco(tmp_path)
    for split in ("train2017", "val2017"):
        path = tmp_path / "annotations" / f"instances_{split}.json"
        content = json.loads(path.read_text())
        inside = content["annotations"][0]["bbox"]
        for annotation in content["annotations"]:
            annotation["bbox"] = [900, 900, 9, 9]
        path.write_text(json.dumps(content))
    with pytest.raises(EvaluationError, match=r"not one object to train in the images: .* \(2\): .*; write boxes in"):
        train_and_val(tmp_path)
    content = json.loads((path := tmp_path / "annotations" / "instances_train2017.json").read_text())
    content["annotations"][0]["bbox"] = inside
    path.write_text(json.dumps(content))
    _, val, _ = train_and_val(tmp_path)  # an evaluation counts all as missed, and says so
    assert {"box beyond", "no object inside"} <= kinds(val.notes).keys()


def test_the_same_image_on_both_sides(tmp_path: Path) -> None:
    yolo(tmp_path)
    shutil.copy(tmp_path / "images" / "train" / "2.png", tmp_path / "images" / "val" / "4.png")
    _, _, notes = train_and_val(tmp_path)
    assert kinds(notes) == {"image in both splits": 1}
    assert notes[0].examples == ("4.png",)


def many(*groups: tuple[int, int]) -> DataSet:
    """A data set of (class, number of images)."""
    classes = [category for category, count in groups for _ in range(count)]
    images = tuple(DataImage(n, Path(f"{n}.jpg"), (9, 9)) for n in range(len(classes)))
    objects = (DataObject(n, category, (0, 0, 1, 1), 1, False) for n, category in enumerate(classes) if category)
    return DataSet("x", Path("x"), images, {1: "a", 2: "b"}, tuple(objects))


def test_classes_are_divided_alike() -> None:
    data = many((1, 80), (2, 20), (0, 40))
    train, val = divide(data, 0.1)
    assert len(val.images) == 14
    assert Counter(item.category_id for item in val.objects) == {1: 8, 2: 2}
    assert not set(train.image_ids) & set(val.image_ids)
    assert len(train.images) == 126
    assert divide(data, 0.1)[1] == val
    assert divide(data, 0.1, seed=1)[1] != val


@pytest.mark.parametrize("share", [0.0, 1.0, -1.0, 1.5, 0.01, 0.99])
def test_no_images_on_a_side(share: float) -> None:
    with pytest.raises(UsageError, match=r"--val-split .* leaves [0-9]+ of 10 images for validation; expected a share"):
        divide(many((1, 10)), share)


def test_a_side_without_objects() -> None:
    with pytest.raises(EvaluationError, match="not one object to find"):
        divide(many((1, 1), (0, 9)), 0.5)


@pytest.mark.parametrize(
    ("splits", "usual", "found"),
    [
        (["train", "trainval", "val"], TRAINING, "train"),
        (["coco_train", "coco_val"], TRAINING, "coco_train"),
        (["coco_train", "coco_val"], VALIDATION, "coco_val"),
        (["trainer", "evaluate"], TRAINING, None),
        (["a_train", "b_train"], TRAINING, None),
        (["test", "valid"], VALIDATION, "valid"),
    ],
)
def test_usual_names(splits: list[str], usual: tuple[str, ...], found: str | None) -> None:
    assert pick(splits, usual) == found
