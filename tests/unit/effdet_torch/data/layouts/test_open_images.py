"""Open Images: boxes in CSV files."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from effdet_torch.data.dataset import DataSet
from effdet_torch.data.files import check_images
from effdet_torch.data.sources import DataSource
from effdet_torch.data.training.splits import train_and_val
from effdet_torch.errors import EvaluationError

HEADER = (
    "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf,IsDepiction,IsInside\n"
)
ROWS = (
    "00a1,xclick,/m/01,1,0.25,0.75,0.5,1,0,0,0,0,0\n"
    "00a1,xclick,/m/02,1,0,1,0,1,0,0,1,0,0\n"
    "0b02,xclick,/m/02,1,0,0.5,0,0.5,0,0,-1,-1,-1\n"
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "class-descriptions-boxable.csv").write_text('/m/01,Cat\n/m/02,"Dog, large"\n/m/03,Cow\n')
    (tmp_path / "validation-annotations-bbox.csv").write_text(HEADER + ROWS)
    (tmp_path / "validation-annotations-human-imagelabels-boxable.csv").write_text("not read")
    pictures(tmp_path / "validation", "00a1", "0b02", "0c03")
    return tmp_path


def pictures(folder: Path, *stems: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for stem in stems:
        Image.new("RGB", (40, 20), (len(folder.name), 0, 0)).save(folder / f"{stem}.jpg")


def read(path: Path, split: str | None = None) -> DataSet:
    return check_images(DataSource(data=path).read(split))


def kinds(data: DataSet) -> dict[str, int]:
    return {note.kind: note.count for note in data.notes}


def test_boxes_classes_and_groups(root: Path) -> None:
    data = read(root)
    assert (data.name, data.numbering, data.notes) == ("validation", "order", ())
    assert data.categories == {1: "Cat", 2: "Dog, large", 3: "Cow"}
    assert [tuple(x) for x in data.objects] == [
        (1, 1, (10, 10, 20, 10), 200, False),
        (1, 2, (0, 0, 40, 20), 800, True),
        (2, 2, (0, 0, 20, 10), 200, False),
    ]
    assert [image.name for image in data.images] == ["00a1.jpg", "0b02.jpg", "0c03.jpg"]
    assert read(root / "validation-annotations-bbox.csv") == data


def test_training_images_have_a_version_in_their_name(root: Path) -> None:
    (root / "oidv6-train-annotations-bbox.csv").write_text(HEADER + ROWS)
    (root / "class-descriptions-boxable.csv").write_text("LabelName,DisplayName\n/m/01,Cat\n/m/02,Dog\n")
    pictures(root / "images" / "train", "00a1", "0b02")
    train, val, _ = train_and_val(root)
    assert (train.name, val.name, len(train.images), train.categories) == (
        "oidv6-train",
        "validation",
        2,
        {1: "Cat", 2: "Dog"},
    )


def test_a_part_of_the_images(root: Path) -> None:
    (root / "validation" / "00a1.jpg").unlink()
    data = read(root)
    assert (len(data.images), len(data.objects), kinds(data)) == (2, 1, {"object of another image": 2})


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("00a1,x,/m/01,1,0.2,20,0,1,0,0,0,0,0\n", r"outside of 0 to 1 \(1\): line 2: 00a1,x.*; divide x"),
        ("00a1,x,/m/01,1,0.2,wide,0,1,0,0,0,0,0\n", r"not a class with four numbers.*line 2: 00a1"),
        ("00a1,x,/m/01,1\n", r"line 2: 4 values, and 13 columns"),
        ("00a1,x,/m/09,1,0,1,0,1,0,0,0,0,0\n", r"categories that are not in the list \(1\):.*'/m/09'"),
    ],
)
def test_damaged_rows(root: Path, rows: str, message: str) -> None:
    (root / "validation-annotations-bbox.csv").write_text(HEADER + rows)
    with pytest.raises(EvaluationError, match=message):
        read(root)


def test_damaged_files(root: Path) -> None:
    path = root / "validation-annotations-bbox.csv"
    for content, message in (
        (b"ImageID,LabelName\n", "has no column XMin; expected those of Open Images"),
        (b"", "has no column ImageID"),
        (b"\xff\xfe", r"validation-annotations-bbox\.csv cannot be read as CSV"),
        (b"a" * 200_000, r"cannot be read as CSV: field larger than field limit"),
    ):
        path.write_bytes(content)
        with pytest.raises(EvaluationError, match=message):
            read(root)


def test_missing_files(root: Path) -> None:
    with pytest.raises(EvaluationError, match=r"has no train-annotations-bbox\.csv; choose a --split of validation"):
        read(root, "train")
    (root / "validation").rename(root / "elsewhere")
    with pytest.raises(EvaluationError, match=r"the folder of the images of .* is missing; expected .*validation"):
        read(root)
    (root / "elsewhere").rename(root / "validation")
    (root / "class-descriptions-boxable.csv").unlink()
    with pytest.raises(EvaluationError, match=r"has no class-descriptions-boxable\.csv"):
        read(root)
