"""Which data set was named, and in which layout it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from effdet_torch.data.sources import DataSource, read_split
from effdet_torch.errors import EvaluationError, UsageError
from support.coco_samples import annotation_file, write_coco


def test_cocos_layout_is_recognised(tmp_path: Path) -> None:
    root = write_coco(tmp_path)
    assert DataSource(data=root).read() == read_split(root)


def test_an_annotation_file_and_a_folder(tmp_path: Path) -> None:
    root = write_coco(tmp_path)
    named = DataSource(annotations=annotation_file(root), images=root / "val2017")
    assert named.read() == read_split(root)


def test_two_layouts_are_ambiguous(tmp_path: Path) -> None:
    root = write_coco(tmp_path)
    (root / "data.yaml").touch()
    with pytest.raises(EvaluationError, match=r"several layouts \(COCO, YOLO\): choose one .*; effdet-verify also has"):
        DataSource(data=root).read()


def test_no_layout_at_all(tmp_path: Path) -> None:
    with pytest.raises(
        EvaluationError, match=r"not a data set of a known layout\. Expected .*: Roboflow COCO.*classes\.txt.*\*\.xml"
    ):
        DataSource(data=tmp_path).read()
    with pytest.raises(EvaluationError, match=r"missing does not exist; .* --annotations FILE"):
        DataSource(data=tmp_path / "missing").read()
    with pytest.raises(
        EvaluationError, match=r"is not a folder or a data set file.*; .*effdet-verify also takes --annotations FILE"
    ):
        DataSource(data=annotation_file(write_coco(tmp_path))).read()


def test_a_folder_too_deep(tmp_path: Path) -> None:
    root = write_coco(tmp_path / "coco")
    for option in ("coco", "data"):
        DataSource(**{option: root}).read()  # negative control
        with pytest.raises(EvaluationError, match=rf"the folder above.*{root}\b"):
            DataSource(**{option: root / "val2017"}).read()


def test_what_is_not_cocos_layout(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match=r"other layouts pass --data DIR"):
        DataSource(coco=tmp_path).read()
    with pytest.raises(EvaluationError, match=r"missing does not exist; --coco takes COCO's folder"):
        DataSource(coco=tmp_path / "missing").read()


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ((), "name one data set, found none"),
        (("images",), "name one data set, found none"),
        (("coco", "data"), "name one data set, found --coco and --data"),
        (("annotations",), "--annotations x needs --images DIR"),
        (("coco", "images"), "--images belongs to --annotations; leave it out with --coco"),
    ],
)
def test_exactly_one_data_set(names: tuple[str, ...], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        DataSource(**dict.fromkeys(names, Path("x")))


def test_a_file_is_not_cocos_folder(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match=r"is a file; --coco takes COCO's folder"):
        DataSource(coco=annotation_file(write_coco(tmp_path))).read()
