"""TFRecords, written by TensorFlow and read without it."""

from __future__ import annotations

import gzip
import json
import re
import tempfile
import tracemalloc
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from effdet_torch.data.dataset import DataSet
from effdet_torch.data.files import check_images
from effdet_torch.data.layouts.example import Example
from effdet_torch.data.sources import DataSource
from effdet_torch.data.training.class_map import classes_of
from effdet_torch.data.training.splits import train_and_val
from effdet_torch.errors import EvaluationError
from effdet_torch.inference.images import ImageError, read_image
from support.coco_samples import annotation_file, evaluate_coco, write_coco, write_model
from support.records import PREFIX, example, features, write_records
from verify.detections.run import CocoSettings

pytest.importorskip("tensorflow")


def read(path: Path, split: str | None = None) -> DataSet:
    return check_images(DataSource(data=path).read(split))


def kinds(data: DataSet) -> dict[str, int]:
    return {note.kind: note.count for note in data.notes}


def test_images_boxes_and_classes(tmp_path: Path) -> None:
    second = features(
        12,
        [[0, 0, 1, 1], [0.5, 0, 1, 0.5]],
        **{f"{PREFIX}class/text": [b"dog", b"cat"], f"{PREFIX}class/label": [2, 1], f"{PREFIX}is_crowd": [0, 1]},
    )
    write_records(tmp_path / "val-00000-of-00001.tfrecord", features(7), second, features(3, []))
    data = read(tmp_path)
    assert (data.name, data.categories, data.numbering, data.notes) == ("val", {1: "cat", 2: "dog"}, "stated", ())
    assert data.image_ids == [3, 7, 12]
    assert [tuple(x) for x in data.objects] == [
        (7, 1, (10, 10, 20, 10), 50, False),
        (12, 2, (0, 0, 40, 20), 50, False),
        (12, 1, (20, 0, 20, 10), 50, True),
    ]
    assert [image.name for image in data.images] == ["3.png", "7.png", "12.png"]
    assert [read_image(image.source)[0, 0].tolist() for image in data.images] == [[x, 0, 0] for x in (3, 7, 12)]
    assert read(tmp_path / "val-00000-of-00001.tfrecord").objects == data.objects


def test_an_evaluation_is_that_of_the_same_images_in_cocos_layout(tmp_path: Path) -> None:
    root, model = write_coco(tmp_path / "coco"), write_model(tmp_path / "model.pth", num_classes=2)
    content = json.loads(annotation_file(root).read_text())
    names = {x["id"]: x["name"].encode() for x in content["categories"]}
    records = []
    for image, item in zip(content["images"], content["annotations"], strict=True):
        x, y, width, height = item["bbox"]
        sides = np.array([x, y, x + width, y + height]) / [
            image["width"],
            image["height"],
            image["width"],
            image["height"],
        ]
        box, label = sides.reshape(1, 4).tolist(), item["category_id"]
        changes: dict[str, Any] = {
            "image/encoded": [(root / "val2017" / image["file_name"]).read_bytes()],
            **{f"image/{side}": [image[side]] for side in ("width", "height")},
            f"{PREFIX}class/label": [label],
            f"{PREFIX}class/text": [names[label]],
            f"{PREFIX}area": None,
        }
        records.append(features(image["id"], box, **changes))
    write_records(tmp_path / "records" / "val.tfrecord", *records)
    found = [
        evaluate_coco(model, DataSource(data=path), CocoSettings(workers=1)) for path in (root, tmp_path / "records")
    ]
    assert found[0] is not None
    assert found[1] is not None
    assert found[1].results == found[0].results
    assert found[1].metrics == pytest.approx(found[0].metrics)


CATS_AND_DOGS = "item { id: 1 name: '/m/01yrx' display_name: 'cat' } item { id: 2 name: 'dog' }"


@pytest.mark.parametrize("text", [b"/m/01yrx", b"cat", b"Cat", b""])
@pytest.mark.parametrize("place", ["label_map.pbtxt", "valid/mine_LabelMap.pbtxt"])
def test_a_label_map_names_the_classes(tmp_path: Path, text: bytes, place: str) -> None:
    write_records(tmp_path / "valid" / "a.tfrecord", features(7, **{f"{PREFIX}class/text": [text]}))
    before = read(tmp_path)
    (tmp_path / place).write_text(CATS_AND_DOGS)
    (tmp_path / "graph.pbtxt").write_text("node { name: 'images' }")
    data = read(tmp_path)
    assert (before.categories, before.notes) == ({1: text.decode()}, ())  # negative control
    assert (data.categories, data.objects) == ({1: "cat", 2: "dog"}, before.objects)
    assert kinds(data) == ({} if text == b"cat" else {"class named by label map": 1})


@pytest.mark.parametrize(
    ("maps", "message"),
    [
        (["item { id: 2 name: 'dog' }"], "map0.pbtxt does not belong to the records: it lacks the classes 1 cat;"),
        (["item { id: 1 name: 'dog' }"], "records: 1 is 'cat' in the records and 'dog' in the map; replace it"),
        ([CATS_AND_DOGS, "item { id: 1 name: 'cat' }"], "1.pbtxt and label_map0.pbtxt give the classes different"),
        (["item { id: 1 name: 'cat'"], "label_map0.pbtxt is not a label map: line 1: expected the name of a field"),
    ],
)
def test_a_label_map_that_does_not_fit(tmp_path: Path, maps: list[str], message: str) -> None:
    path = write_records(tmp_path / "val.tfrecord", features(7))
    for number, text in enumerate(maps):
        (tmp_path / f"label_map{number}.pbtxt").write_text(text)
    for place in (tmp_path, path):
        with pytest.raises(EvaluationError, match=re.escape(message)):
            read(place)


def test_pixels_stay_in_the_file(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).bytes(8 << 20)
    path = write_records(tmp_path / "val.tfrecord", *(features(n, **{"image/encoded": [noise]}) for n in range(1, 4)))
    tracemalloc.start()
    data = DataSource(data=path).read()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 20
    assert path.read_bytes()[(part := data.images[2].part).offset :][: part.size] == noise  # type: ignore[union-attr]


def test_a_file_that_has_become_shorter(tmp_path: Path) -> None:
    path = write_records(tmp_path / "val.tfrecord", features(1), features(2))
    image = read(path).images[1]
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ImageError, match=r"2\.png in .*val\.tfrecord: val\.tfrecord has become shorter"):
        read_image(image.source)


@pytest.mark.parametrize(
    ("names", "split", "chosen"),
    [
        (("train-00000-of-00001.tfrecord", "val-00000-of-00001.tfrecord"), None, "val"),
        (("train-00000-of-00001.tfrecord", "val-00000-of-00001.tfrecord"), "train", "train"),
        (("coco_train.record", "coco_val.record-00000-of-00001"), None, "coco_val"),
        (("train/cats.tfrecord", "valid/cats.tfrecord"), None, "valid"),
        (("mine.tfrecords",), None, "mine"),
    ],
)
def test_splits(tmp_path: Path, names: tuple[str, ...], split: str | None, chosen: str) -> None:
    for name in names:
        write_records(tmp_path / name, features(1))
    assert read(tmp_path, split).name == chosen
    with pytest.raises(EvaluationError, match=rf"has no split 'other'; choose a --split of .*{chosen}"):
        read(tmp_path, "other")


def test_missing_files_of_a_split(tmp_path: Path) -> None:
    for number in (0, 2):
        write_records(tmp_path / f"val-{number:05d}-of-00003.tfrecord", features(number + 1))
    with pytest.raises(EvaluationError, match=r"lacks 1 of the 3 files of val-00000-of-00003.tfrecord: number 1; copy"):
        read(tmp_path)
    write_records(tmp_path / "val-00001-of-00003.tfrecord", features(2))
    assert read(tmp_path).image_ids == [1, 2, 3]  # negative control


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image/encoded": None}, r"val\.tfrecord, record 2: it has no image/encoded; found image/"),
        ({f"{PREFIX}class/label": [1, 1]}, r"record 2: its 1 boxes have lists of other lengths"),
        ({f"{PREFIX}bbox/xmin": None}, r"record 2: its 0 boxes have lists of other lengths"),
        ({f"{PREFIX}bbox/xmax": [30.0]}, r"outside of 0 to 1 \(1\): val\.tfrecord, record 2: .*30\.0.*; divide x"),
        ({f"{PREFIX}is_crowd": [7]}, r"iscrowd is not 0 or 1"),
    ],
)
def test_what_is_not_an_image_with_objects(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    write_records(tmp_path / "val.tfrecord", features(1), features(2, **changes))
    with pytest.raises(EvaluationError, match=message):
        read(tmp_path)


def test_what_official_tools_leave_out(tmp_path: Path) -> None:
    """A writer without names, sizes and areas: the rest is enough."""
    optional = ("image/height", "image/width", "image/filename", f"{PREFIX}area", f"{PREFIX}class/text")
    write_records(tmp_path / "val.tfrecord", features(4, **dict.fromkeys([*optional, f"{PREFIX}is_crowd"])))
    data = read(tmp_path)
    assert (data.categories, kinds(data)) == ({1: ""}, {"image size missing": 1})
    assert data.objects[0][2:4] == ((10, 10, 20, 10), 200)
    assert data.images[0].name == "record 1"


def test_one_label_with_two_names(tmp_path: Path) -> None:
    other = features(2, **{f"{PREFIX}class/text": [b"dog"]})
    write_records(tmp_path / "val.tfrecord", features(1), other)
    with pytest.raises(EvaluationError, match=r"category ids with different names \(1\): 1 \(cat, dog\)"):
        read(tmp_path)


def test_files_of_another_kind(tmp_path: Path) -> None:
    path = tmp_path / "val.tfrecord"
    for content, message in (
        (b"no record at all, but some text", r"record 1 at byte 0: this is not a TFRecord file"),
        (gzip.compress(b"x"), r"is compressed; unpack it with gunzip"),
        (b"", r"is empty; expected records"),
        (b"short", r"record 1 at byte 0: the file ends after 5 bytes of it"),
    ):
        path.write_bytes(content)
        with pytest.raises(EvaluationError, match=message):
            read(tmp_path)
    write_records(path, b"\xff" * 30)
    with pytest.raises(EvaluationError, match=r"val\.tfrecord, record 1: the number at byte"):
        read(tmp_path)


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write_records(tmp_path_factory.mktemp("records") / "a.tfrecord", features(1), features(2)).read_bytes()


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_no_damage_is_overlooked(sample: bytes, data: st.DataObject) -> None:
    position = data.draw(st.integers(0, len(sample) - 1))
    bit = data.draw(st.integers(0, 7))
    damaged = bytearray(sample)
    damaged[position] ^= 1 << bit
    first = 16 + int.from_bytes(sample[:8], "little")  # the end of the first record
    for content in (bytes(damaged), sample[:position]):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "val.tfrecord"
            path.write_bytes(content)
            if content == sample[:first]:
                assert read(path).image_ids == [1]  # negative control: whole records
                continue
            with pytest.raises(EvaluationError, match=r"val\.tfrecord(, record [12] at byte| is (empty|compressed))"):
                read(path)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_damaged_messages_are_refused_in_words(data: st.DataObject) -> None:
    """With right checksums, as a hostile file has them: an error of ours, or values of the right kinds."""
    content = bytearray(example(features(1)))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    with suppress(ValueError):
        found = Example(memoryview(bytes(content)))
        for name in found.names:
            assert all(isinstance(x, int) and -(1 << 63) <= x < 1 << 63 for x in found.integers(name))
            assert found.floats(name).dtype == np.float32
            assert all(0 <= place.start <= place.stop <= len(content) for place in found.places(name))


def test_numbers_that_are_not_packed() -> None:
    """Old writers give every number a field of its own."""
    feature = bytes.fromhex("1a04 0805 0807".replace(" ", ""))  # Int64List: 5, 7
    entry = b"\x0a\x01n\x12" + bytes([len(feature)]) + feature
    features_ = b"\x0a" + bytes([len(entry)]) + entry
    assert Example(memoryview(b"\x0a" + bytes([len(features_)]) + features_)).integers("n") == [5, 7]


def test_labels_from_0(tmp_path: Path) -> None:
    """The official code would train the class 0 as background, without a word."""
    zero = {f"{PREFIX}class/label": [0], f"{PREFIX}class/text": [b"dog"]}
    write_records(tmp_path / "train.tfrecord", features(1), features(2, **zero))
    train, val, _ = train_and_val(tmp_path)
    found = classes_of(train, val, {}, 1)
    assert found.label_map == {1: "dog", 2: "cat"}
    assert {note.kind: note.examples for note in found.notes}["category from 0"] == ("dog",)
    with pytest.raises(
        EvaluationError, match=r"category 0 'dog' cannot keep its id; labels are 1 to .* \(class channel"
    ):
        classes_of(train, val, {}, 1, keep_ids=True)
