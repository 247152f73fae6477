"""YOLO text files."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from effdet_torch.data.dataset import DataSet
from effdet_torch.data.files import check_images
from effdet_torch.data.layouts.yolo import label_file
from effdet_torch.data.sources import DataSource
from effdet_torch.errors import EvaluationError

DATA = "val: images/val\nnames: [cat, dog]\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for folder in ("images/val", "labels/val"):
        (tmp_path / folder).mkdir(parents=True)
    for name in ("a", "b"):
        Image.new("RGB", (40, 20)).save(tmp_path / "images" / "val" / f"{name}.jpg")
    (tmp_path / "labels" / "val" / "a.txt").write_text("1 0.5 0.5 0.25 0.5\n\n0 .5 .5 1 1\n")
    (tmp_path / "data.yaml").write_text(DATA)
    return tmp_path


def read(path: Path, split: str | None = None) -> DataSet:
    return check_images(DataSource(data=path).read(split))


def labels(root: Path, text: str) -> None:
    (root / "labels" / "val" / "a.txt").write_text(text)


def test_boxes_and_names(root: Path) -> None:
    data = read(root)
    assert read(root / "data.yaml") == data
    assert (data.name, data.categories, data.numbering) == ("val", {1: "cat", 2: "dog"}, "order")
    assert [tuple(x) for x in data.objects] == [
        (1, 2, (15, 5, 10, 10), 100, False),
        (1, 1, (0, 0, 40, 20), 800, False),
    ]
    assert (data.image_ids, data.images[1].size, data.notes) == ([1, 2], (40, 20), ())


@pytest.mark.parametrize(
    "text",
    [
        "path: .\nval: ./images/val\nnames: {0: cat, 1: dog}\nnc: 2\n",
        "val: ../images/val\nnames: [cat, dog]\n",
        "val: [images/val]\nnames: [cat, dog]\n",
        "path: /content/somewhere\nval: images/val\nnames: [cat, dog]\n",
        "path: ROOT\nval: images/val\nnames: [cat, dog]\n",
        "val: list.txt\nnames: [cat, dog]\n",
    ],
)
def test_ways_to_name_the_images(root: Path, text: str) -> None:
    expected = read(root)
    (root / "list.txt").write_text("./images/val/a.jpg\nimages/val/b.jpg\n")
    (root / "data.yaml").write_text(text.replace("ROOT", str(root)))
    found = read(root)
    assert (found.objects, found.categories) == (expected.objects, expected.categories)
    assert [x.path.resolve() for x in found.images] == [x.path.resolve() for x in expected.images]


def test_a_list_of_names_without_yaml(root: Path) -> None:
    (root / "data.yaml").unlink()
    (root / "classes.txt").write_text("cat\ndog\n")
    assert read(root).categories == {1: "cat", 2: "dog"}
    assert read(root).name == "val"


def test_polygons_have_boxes(root: Path) -> None:
    labels(root, "0 0.1 0.2 0.5 0.2 0.3 0.7\n")
    data = read(root)
    assert data.objects[0].bbox == pytest.approx((4, 4, 16, 10))
    assert [(x.kind, x.count) for x in data.notes] == [("polygon", 1)]


@pytest.mark.parametrize("line", ["0 .5 .5 .1", "0 .5 .5 .1 .1 .9", "0 nan .5 .1 .1", "cat .5 .5 .1 .1"])
def test_lines_that_are_refused(root: Path, line: str) -> None:
    labels(root, f"0 .5 .5 .1 .1\n{line}\n")
    with pytest.raises(EvaluationError, match=r"objects that are not a class .* \(1\): a.txt, line 2"):
        read(root)


@pytest.mark.parametrize("line", ["0 12 30 5 5", "0 .5 .5 1.5 .1"])
def test_pixels_in_place_of_shares_are_called_so(root: Path, line: str) -> None:
    labels(root, f"0 .5 .5 1 .1\n{line}\n")
    with pytest.raises(EvaluationError, match=r"coordinate outside of 0 to 1 \(1\): a.txt, line 2: .*; divide x and"):
        read(root)


@pytest.mark.parametrize(
    ("text", "split", "problem"),
    [
        ("names: [", None, "cannot be read as YAML"),
        ("val: images/val", None, "expected names"),
        (DATA + "nc: 3", None, "nc is 3, and there are 2 names"),
        (DATA, "test", "has no split 'test'; choose a --split of val"),
        ("val: nowhere\nnames: [cat, dog]", None, "the folder nowhere of val does not exist"),
    ],
)
def test_descriptions_that_are_refused(root: Path, text: str, split: str | None, problem: str) -> None:
    (root / "data.yaml").write_text(text)
    with pytest.raises(EvaluationError, match=problem):
        read(root, split)


def test_other_faults(root: Path) -> None:
    labels(root, "2 .5 .5 .1 .1\n")
    with pytest.raises(EvaluationError, match=r"categories that are not in the list \(1\): annotation number 1 "):
        read(root)
    labels(root, "0 .5 .5 0 .1\n")
    with pytest.raises(EvaluationError, match="not one object to find"):
        read(root)
    labels(root, "\xff")
    (root / "labels" / "val" / "a.txt").write_bytes(b"\xff")
    with pytest.raises(EvaluationError, match=r"a.txt cannot be read as text"):
        read(root)


def test_a_photograph_is_taken_as_viewers_show_it(root: Path) -> None:
    exif = Image.Exif()
    exif[0x112] = 6
    Image.new("RGB", (20, 40)).save(root / "images" / "val" / "a.jpg", exif=exif)
    data = read(root)
    assert (data.images[0].size, data.images[0].turned, data.images[1].turned) == ((40, 20), True, False)
    assert [(x.kind, x.count) for x in data.notes] == [("photograph turned", 1)]


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        ("d/images/val/a.jpg", "d/labels/val/a.txt"),
        ("images/d/images/a.b.png", "images/d/labels/a.b.txt"),
        ("d/a.jpg", "d/a.txt"),
        ("images", "images.txt"),
    ],
)
def test_where_labels_are(image: str, expected: str) -> None:
    assert label_file(Path(image)) == Path(expected)
