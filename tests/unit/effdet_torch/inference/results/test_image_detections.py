"""What an `ImageDetections` can do: pick, move, draw, and write what other tools read."""

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from effdet_torch import ImageDetections, Predictor
from effdet_torch.data.layouts.voc import voc_folder
from effdet_torch.data.layouts.yolo import yolo_folder
from effdet_torch.errors import EffdetError, OutputError, UsageError
from support.coco_samples import small_model

HEIGHT, WIDTH = 40, 50
BOXES = np.float32([[1, 2, 30, 40], [-4, 10, 5, 20], [20, 20, 60, 30.5], [60, 0, 70, 10]])
NAMES = ["dog", "cat", "dog, <small>", "cat"]


@pytest.fixture
def found() -> ImageDetections:
    scores = np.float32([0.9, 0.8, 0.5, 0.25])
    return ImageDetections(BOXES, scores, np.array([18, 17, 3, 17]), NAMES, size=(HEIGHT, WIDTH))


@pytest.fixture
def image() -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)


def columns(found: ImageDetections) -> list[Any]:
    return [found.boxes_xyxy.tolist(), found.scores.tolist(), found.category_ids.tolist(), found.names]


def test_iteration_and_one_detection(found: ImageDetections) -> None:
    rows = list(found)
    assert [row.name for row in rows] == NAMES
    assert [list(row.box_xyxy) for row in rows] == BOXES.tolist()
    assert [(row.score, row.category_id) for row in rows[1:3]] == [(found.scores[1], 17), (0.5, 3)]
    assert found[0] == rows[0]
    assert found[np.int64(-1)] == rows[-1]
    assert found[np.array(2)] == found.to("cpu")[torch.tensor(2)] == rows[2]
    with pytest.raises(IndexError):
        found[4]


@pytest.mark.parametrize(
    "index", [slice(1, 3), [1, 2], (1, 2), torch.tensor([1, 2]), np.array([1, 2]), np.array([False, True, True, False])]
)
def test_some_of_the_detections(found: ImageDetections, index: Any) -> None:
    some = found[index]
    assert columns(some) == [BOXES[1:3].tolist(), found.scores[1:3].tolist(), [17, 3], NAMES[1:3]]
    assert some.size == found.size


def test_names_compared_as_a_list_choose_nothing(found: ImageDetections) -> None:
    assert found[np.array(found.names) == "cat"].scores.tolist() == [np.float32(0.8), 0.25]
    for index in (found.names == "cat", np.bool_(True)):
        with pytest.raises(UsageError, match=r"compare np.array\(found.names\) instead"):
            found[index]


def test_tensors_give_the_same(found: ImageDetections) -> None:
    moved = found.to("cpu")
    assert isinstance(moved.boxes_xyxy, torch.Tensor)
    assert list(moved) == list(found)
    assert moved.to_csv() == found.to_csv()
    assert moved.to_coco("a") == found.to_coco("a")
    strong = moved[moved.scores > 0.6]
    assert isinstance(strong.scores, torch.Tensor)
    assert columns(strong.numpy()) == columns(found[:2])
    assert isinstance(strong.numpy().boxes_xyxy, np.ndarray)


def test_mask_moves_along(found: ImageDetections) -> None:
    mask = np.array([[0, 1], [1, 1]], np.uint8)
    moved = replace(found, mask=mask).to("cpu")
    assert isinstance(moved.mask, torch.Tensor)
    assert moved.mask_shares() == {0: 0.25, 1: 0.75}


def test_text_lists_every_detection(found: ImageDetections) -> None:
    lines = str(found).splitlines()
    assert lines[:2] == ["4 detections in 50 x 40 pixels", "dog 0.90 [1, 2, 30, 40]"]
    assert str(found[:1]).startswith("1 detection in")
    assert str(ImageDetections.none()) == "0 detections"


def test_json_and_csv_keep_every_digit(found: ImageDetections) -> None:
    rows = json.loads(found.to_json())
    assert [[row["box_xyxy"], row["score"], row["category_id"], row["name"]] for row in rows] == [
        list(row) for row in zip(*columns(found), strict=True)
    ]
    table = list(csv.DictReader(found.to_csv().splitlines()))
    assert [row["name"] for row in table] == NAMES
    assert [float(row["ymax"]) for row in table] == BOXES[:, 3].tolist()
    assert [np.float32(row["score"]) for row in table] == found.scores.tolist()


def test_annotation_files_are_read_back(found: ImageDetections, image: Any, tmp_path: Path) -> None:
    inside = np.float32([[1, 2, 30, 40], [0, 10, 5, 20], [20, 20, 50, 30.5]])  # cut; the last one is not inside
    for folder in ("images", "JPEGImages"):
        (tmp_path / folder).mkdir()
        Image.fromarray(image).save(tmp_path / folder / "a.png")
    (tmp_path / "classes.txt").write_text("\n".join(f"class {number}" for number in range(1, 91)))
    found.save(tmp_path / "labels" / "a.txt")
    found.save(tmp_path / "Annotations" / "a.xml")
    yolo, voc = yolo_folder(tmp_path).content, voc_folder(tmp_path).content
    assert [entry["category_id"] for entry in yolo["annotations"]] == [18, 17, 3]
    names = {entry["id"]: entry["name"] for entry in voc["categories"]}
    assert [names[entry["category_id"]] for entry in voc["annotations"]] == NAMES[:3]
    assert (voc["images"][0]["width"], voc["images"][0]["height"]) == (WIDTH, HEIGHT)
    for content, atol in ((yolo, 1e-4), (voc, 0.5)):
        boxes_xywh = np.array([entry["bbox"] for entry in content["annotations"]])
        boxes = np.hstack([boxes_xywh[:, :2], boxes_xywh[:, :2] + boxes_xywh[:, 2:]])
        np.testing.assert_allclose(boxes, inside, atol=atol)
    assert [line.split()[5] for line in found.to_yolo(scores=True).splitlines()] == ["0.900000", "0.800000", "0.500000"]


@pytest.mark.parametrize("method", ["to_yolo", "to_voc"])
def test_shares_need_the_size(found: ImageDetections, method: str) -> None:
    with pytest.raises(UsageError, match="size=\\(height, width\\)"):
        getattr(replace(found, size=None), method)()


def test_predictor_keeps_size_and_image(image: Any, tmp_path: Path) -> None:
    predictor = Predictor(small_model(), device="cpu", score_threshold=0)
    Image.fromarray(image).save(tmp_path / "a.png")
    kept, read = predictor([image, tmp_path / "a.png"])
    assert kept.size == read.size == (HEIGHT, WIDTH)
    assert kept.source is image
    assert len(kept) > 0
    drawn = np.asarray(kept.plot())
    assert drawn.shape == image.shape
    assert not np.array_equal(drawn, image)
    np.testing.assert_array_equal(drawn, np.asarray(read.plot()))
    np.testing.assert_array_equal(drawn, np.asarray(kept.to("cpu").plot()))
    np.testing.assert_array_equal(np.asarray(kept[:0].plot()), image)  # negative control
    ((_, streamed),) = predictor.stream([tmp_path / "a.png"])  # type: ignore[misc]
    assert streamed.source == tmp_path / "a.png"
    ((_, stored),) = predictor.stream([tmp_path / "a.png"], apply_exif=False)  # type: ignore[misc]
    assert stored.source is None  # read again, it would be turned
    (passing,) = predictor(iter([image]))  # images that nobody else keeps are not kept
    assert passing.source is None
    with pytest.raises(UsageError, match=r"plot\(image\)"):
        passing.plot()
    np.testing.assert_array_equal(drawn, np.asarray(passing.plot(image)))
    with pytest.raises(UsageError, match=r"\(20, 50\), the detections are for \(40, 50\)"):
        passing.plot(image[:20])


def test_save_goes_by_the_suffix(found: ImageDetections, image: Any, tmp_path: Path) -> None:
    assert found.save(tmp_path / "new" / "a.PNG", image) == tmp_path / "new" / "a.PNG"
    with Image.open(tmp_path / "new" / "a.PNG") as drawn:
        np.testing.assert_array_equal(np.asarray(drawn), np.asarray(found.plot(image)))
    found.save(tmp_path / "a.jpg", image)
    assert json.loads(found.save(tmp_path / "a.json").read_text()) == json.loads(found.to_json())
    assert found.save(tmp_path / "a.csv").read_text() == found.to_csv()
    with pytest.raises(UsageError, match=r"a\.bmp: expected one of the suffixes \.png, .*\.xml"):
        found.save(tmp_path / "a.bmp")
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="choose another folder"):
        found.save(tmp_path / "file" / "a.json")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.csv", "a.jpg", "a.json", "file", "new"]


def test_a_box_keeps_an_area_in_whole_pixels(found: ImageDetections, tmp_path: Path) -> None:
    slivers = np.float32([[10.2, 10.2, 10.4, 40], [49.7, 0, 60, 10], [0, 39.6, 10, 40], [3, 3, 4, 4]])
    (tmp_path / "a.xml").write_text(replace(found, boxes_xyxy=slivers).to_voc())
    boxes = [entry["bbox"] for entry in voc_folder(tmp_path).content["annotations"]]
    assert boxes == [[10, 10, 1, 30], [49, 0, 1, 10], [0, 39, 10, 1], [3, 3, 1, 1]]


def test_names_that_no_file_can_hold(found: ImageDetections, tmp_path: Path) -> None:
    broken = replace(found, names=["a\ud800b", "\0", "\n", "d"])
    for suffix in (".csv", ".json", ".txt", ".xml"):
        assert broken.save(tmp_path / f"a{suffix}").read_text(encoding="utf-8")
    assert "a\\ud800b" in (tmp_path / "a.csv").read_text(encoding="utf-8")
    with pytest.raises(OutputError, match="null byte"):
        found.save(tmp_path / "a\0.json")
    with pytest.raises(OutputError, match="cannot hold a picture of 2 x 70000 pixels"):
        replace(found, size=None).save(tmp_path / "a.jpg", np.zeros((70000, 2, 3), np.uint8))
    assert not (tmp_path / "a.jpg").exists()


def test_supervision_is_asked_for_by_name(found: ImageDetections, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "supervision", None)
    with pytest.raises(EffdetError, match="pip install supervision"):
        found.to_supervision()
