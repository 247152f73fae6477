"""PASCAL VOC folders."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from PIL import Image

from effdet_torch.data.dataset import DataSet
from effdet_torch.data.sources import DataSource
from effdet_torch.errors import EvaluationError

BOMB = '<!DOCTYPE a [<!ENTITY x "xxxx"><!ENTITY y "&x;&x;">]><annotation><filename>&y;</filename></annotation>'
OUTSIDE = '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/hostname">]><annotation><filename>&x;</filename></annotation>'


def item(name: str, box: tuple[float, ...] = (1, 2, 11, 22), more: str = "") -> str:
    sides = zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
    return f"<object><name>{name}</name>{more}<bndbox>{''.join(f'<{x}>{y}</{x}>' for x, y in sides)}</bndbox></object>"


def annotation(*objects: str) -> str:
    return f"<annotation><size><width>40</width><height>30</height></size>{''.join(objects)}</annotation>"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (tmp_path / folder).mkdir(parents=True)
    for stem, objects in {"2008_01": [item("dog"), item("cat", (5.5, 6, 7, 8))], "2008_02": [item("cat")]}.items():
        (tmp_path / "Annotations" / f"{stem}.xml").write_text(annotation(*objects))
        Image.new("RGB", (40, 30)).save(tmp_path / "JPEGImages" / f"{stem}.jpg")
    return tmp_path


def read(root: Path, split: str | None = None) -> DataSet:
    return DataSource(data=root).read(split)


def test_boxes_and_names(root: Path) -> None:
    data = read(root)
    assert (data.image_ids, data.categories, data.numbering) == ([1, 2], {1: "cat", 2: "dog"}, "names")
    assert [(x.image_id, x.category_id, x.bbox, x.area) for x in data.objects] == [
        (1, 2, (1, 2, 10, 20), 200),
        (1, 1, (5.5, 6, 1.5, 2), 3),
        (2, 1, (1, 2, 10, 20), 200),
    ]
    assert data.images[0].size == (40, 30)
    assert data.notes == ()


def test_lists_of_images(root: Path) -> None:
    lists = root / "ImageSets" / "Main"
    (lists / "val.txt").write_text("2008_02\n\n")
    (lists / "cat_val.txt").write_text("2008_01 -1\n2008_02  1\n")
    assert [x.path.name for x in read(root).images] == ["2008_02.jpg"]
    assert [x.path.name for x in read(root, "cat_val").images] == ["2008_01.jpg", "2008_02.jpg"]
    with pytest.raises(EvaluationError, match=r"no list ImageSets/Main/test.txt; choose a --split of: cat_val, val"):
        read(root, "test")
    (lists / "val.txt").write_text("2008_02\n2008_03\n")
    with pytest.raises(EvaluationError, match=r"without an annotation file \(1\): 2008_03"):
        read(root)
    (lists / "val.txt").write_text("2008_02\n2008_02\n")
    assert [(note.kind, note.count) for note in read(root).notes] == [("image listed twice", 1)]


def test_numbers_as_names_are_the_ids(root: Path) -> None:
    for folder, suffix in (("Annotations", "xml"), ("JPEGImages", "jpg")):
        for stem in ("2008_01", "2008_02"):
            (root / folder / f"{stem}.{suffix}").rename(root / folder / f"0000{stem[-1]}7.{suffix}")
    assert read(root).image_ids == [17, 27]


def test_a_split_where_there_are_no_lists(root: Path) -> None:
    shutil.rmtree(root / "ImageSets")
    assert read(root).image_ids  # negative control
    with pytest.raises(EvaluationError, match="it has no lists: leave --split out"):
        DataSource(data=root).read("train")


def test_faults_of_objects(root: Path) -> None:
    objects = (
        item("dog", more="<difficult>1</difficult><part><bndbox><xmin>9</xmin></bndbox></part>"),
        item("cat", (5, 5, 5, 9)),
    )
    (root / "Annotations" / "2008_01.xml").write_text(annotation(*objects))
    notes = {note.kind: (note.action, note.count) for note in read(root).notes}
    assert notes == {"object difficult": ("assumed", 1), "box empty": ("dropped", 1)}
    for wrong in ("<object><name>cat</name></object>", item("cat", (1, 2, 3, float("nan"))), item("")):
        (root / "Annotations" / "2008_01.xml").write_text(annotation(wrong))
        with pytest.raises(EvaluationError, match=r"objects that are not a class .* \(1\): 2008_01.xml"):
            read(root)


@pytest.mark.parametrize(
    ("text", "problem"),
    [(BOMB, "document type or entities"), (OUTSIDE, "document type or entities"), ("<a>", "cannot be read as XML")],
)
def test_files_that_are_not_safe(root: Path, text: str, problem: str) -> None:
    (root / "Annotations" / "2008_01.xml").write_text(text)
    with pytest.raises(EvaluationError, match=problem):
        read(root)


def test_files_beside_the_images_and_other_suffixes(root: Path, tmp_path: Path) -> None:
    folder = tmp_path / "flat" / "valid"
    folder.mkdir(parents=True)
    (folder / "a b.xml").write_text(annotation(item("dog")))
    Image.new("RGB", (40, 30)).save(folder / "a b.PNG")
    for data in (read(folder), read(folder.parent), read(folder.parent, "valid")):
        assert (data.name, [x.path for x in data.images]) == ("valid", [folder / "a b.PNG"])
