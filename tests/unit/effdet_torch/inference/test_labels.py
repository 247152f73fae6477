"""Category names."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from effdet_torch.errors import UsageError
from effdet_torch.inference.labels import COCO_NAMES, read_labels


def test_coco_names_are_those_of_the_annotations(shared: Path) -> None:
    annotations = json.loads((shared / "coco50" / "annotations" / "instances_val2017.json").read_text())
    assert dict(COCO_NAMES) == {category["id"]: category["name"] for category in annotations["categories"]}


def test_coco_has_80_names_for_90_ids() -> None:
    assert (len(set(COCO_NAMES.values())), min(COCO_NAMES), max(COCO_NAMES)) == (80, 1, 90)
    assert COCO_NAMES[18] == "dog"
    assert 12 not in COCO_NAMES


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("names.txt", "cat\n\nhair drier\n"),
        ("names.txt", "\ufeffcat\r\n\r\n hair drier \r\n\r\n"),
        ("names", "cat\n\nhair drier"),
        ("names.json", '{"1": "cat", "3": "hair drier"}'),
        ("names.yaml", "1: cat\n3: hair drier\n"),
        ("names.YML", "{1: cat, 3: 'hair drier'}"),
        ("names.txt", "background\ncat\n\nhair drier\n"),
        ("labelmap.txt", "???\ncat\nN/A\nhair drier\n"),
        ("names.json", '["cat", "", "hair drier"]'),
        ("names.json", '{"cat": 1, "hair drier": 3}'),
        ("names.json", '{"0": "background", "1": "cat", "3": "hair drier"}'),
        ("names.yaml", "0: background\n1: cat\n3: hair drier\n"),
        ("names.yaml", "[cat, '', hair drier]"),
        ("config.yaml", "image_size: 512\nlabel_map: {1: cat, 3: hair drier}\n"),
        ("config.yaml", "label_map: {0: background, 1: cat, 3: hair drier}\n"),
        ("data.yaml", "nc: 3\nnames: {0: cat, 2: hair drier}\n"),
        ("data.yaml", "names: [cat, '', hair drier]\n"),
        ("map.pbtxt", "item {\n  id: 1\n  name: 'cat'\n}\nitem {\n  name: \"hair drier\"\n  id: 3 }\n"),
        ("map.txt", 'item { name: "/m/01yrx" id: 1 display_name: "cat" } # x {\nitem{id:3,name:"hair drier"}'),
        (
            "map.pbtxt",
            "item: { id: 1 name: 'cat' keypoints { id: 7 label: 'nose' } } item { id: 3 name: 'hair drier' }",
        ),
        ("map.pbtxt", "item { id: 0 name: 'background' } item { id: 1 name: 'cat' } item { id: 3 name: 'hair drier' }"),
        ("map.pbtxt", "item { id: 3 name: 'hair' ' drier' }\nitem < id: 1, name: 'cat'; > # the end"),
        ("map.pbtxt", r"item { id: 1 name: '\x63\141t' } item { id: 3 name: 'dry' display_name: 'hair drier' }"),
        (
            "map.pbtxt",
            "item [{ id: 1 name: 'cat' frequency: COMMON ancestor_ids: [4, 5] }, { name: 'hair drier' id: 3 }]",
        ),
        ("map.config", "# written by hand\n\nitem { id: 1 name: 'cat' }\nitem { id: 3 name: 'hair drier' }"),
        ("map.pbtxt", "item { id: 1 name: 'cat' } item { id: 3 name: 'hair drier' } item { name: 'cat' id: 1 }"),
        ("coco.json", '{"categories": [{"id": 1, "name": "cat"}, {"id": 3, "name": "hair drier"}], "images": []}'),
        (
            "coco.json",  # duplicate keys that have nothing to do with names
            '{"info": {"x": 1, "x": 2}, "images": [], "images": [1], "categories": '
            '[{"id": 1, "name": "cat", "color": [1], "color": [2]}, {"id": 3.0, "name": "hair drier"}]}',
        ),
        ("names.yaml", "{1.0: cat, 3.0: hair drier}"),
    ],
)
def test_reads_names(tmp_path: Path, file: str, text: str) -> None:
    (tmp_path / file).write_text(text, encoding="utf-8", newline="")
    assert read_labels(tmp_path / file) == {1: "cat", 3: "hair drier"}


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("a.json", b"[1, 2]", "does not hold class names"),
        ("a.json", b"3", "does not hold class names"),
        ("a.json", b'{"one": "cat"}', "does not hold class names"),
        ("a.json", b'{"categories": [{"id": 1}]}', "does not hold class names"),
        ("a.json", b"{", "cannot read the class names"),
        ("a.yaml", b"a: [", "cannot read the class names"),
        ("a.yaml", b"!!python/object/apply:os.getcwd []", "cannot read the class names"),
        ("a.yaml", b"", "does not hold class names"),
        ("a.yaml", b"1: no\n", "the name of category 1 is a bool; quote it"),
        ("a.yaml", b"1: [cat, dog]\n", "the name of category 1 is a list"),
        ("a.txt", b"\xff\xfe\x00", "cannot read the class names"),
        ("a.json", b'{"0": "cat", "1": "dog"}', "names category 0; category ids start at 1"),
        ("a.json", b'{"0": "background"}', "does not hold class names"),
        ("a.json", b"[]", "does not hold class names"),
        ("a.yaml", b"label_map: names.txt", "label_map is 'names.txt', which names another map; pass that file"),
        ("a.yaml", b"1: cat\n1: dog\n", "duplicate key '1' in the mapping of line 1"),
        ("a.json", b'{"1": "cat", "1": "dog"}', "duplicate key '1'"),
        ("a.yaml", b"1: cat\n01: dog\n", "duplicate key '1' = '01' in the mapping of line 1"),
        ("data.yaml", b"names: {0: cat, 00: dog}\n", "duplicate key '0' = '00'"),
        ("a.json", b'{"names": {"0": "cat", "0": "dog"}}', "duplicate key '0'; keep one"),
        ("a.json", b'{"names": ["cat"], "names": ["dog"]}', "duplicate key 'names'"),
        ("a.json", b'{"categories": [{"id": 1, "id": 2, "name": "cat"}]}', "duplicate key 'id'"),
        ("a.yaml", b"label_map: {1: cat, 2.7: dog}", "the category id of 'dog' is 2.7; expected a whole number"),
        ("a.yaml", b"names: {0: cat, 1.5: dog}", "the category id of 'dog' is 1.5"),
        ("a.yaml", b"{.inf: dog}", "the category id of 'dog' is inf"),
        ("a.yaml", b"{true: dog, 2: cat}", "the category id of 'dog' is True"),
        ("a.json", b'{"categories": [{"id": true, "name": "a"}]}', "the category id of 'a' is True"),
        ("a.json", b'{"categories": [{"id": 1.5, "name": "a"}]}', "the category id of 'a' is 1.5"),
        ("a.json", b'{"1": "cat", "01": "dog"}', "gives category 1 two names, 'cat' and 'dog'; keep one"),
        ("a.json", b'{"cat": 1, "dog": 1}', "gives category 1 two names"),
        (
            "a.json",
            b'{"categories": [{"id": 1, "name": "cat"}, {"id": 1, "name": "dog"}]}',
            "gives category 1 two names",
        ),
        ("a.txt", b"\n\n", "does not hold class names"),
        ("a.pbtxt", b"item { id: 1 }", "item 1 lacks id or name; found id"),
        ("a.pbtxt", b"item { id: 1 name: 'a' } item { name: 'b' }", "item 2 lacks id or name; found name"),
        ("a.pbtxt", b"item { id: 1 id: 2 name: 'a' }", "item 1 has several ids"),
        ("a.pbtxt", b"item { id: 1 name: 'a' name: 'b' }", "item 1: name is 'a, b'; expected one text"),
        ("a.pbtxt", b"item { id: 1 name: cat }", "item 1: name is 'cat'; expected one text"),
        ("a.pbtxt", b"item { id: '1' name: 'a' }", "item 1: id is '1'; expected a whole number"),
        ("a.pbtxt", b"item { id: -1 name: 'a' }", "item 1: id is '-1'; expected a whole number"),
        ("a.pbtxt", b"item: 3", "item 1 is not a message"),
        ("a.pbtxt", rb"item { id: 1 name: '\xff' }", "item 1: name is not UTF-8"),
        ("a.pbtxt", b"item { id: 1 name: 'a' } item { id: 1 name: 'b' }", "items 'a' and 'b' have the same id 1"),
        ("a.pbtxt", b"item { id: 1 name: 'a' } itm { id: 2 name: 'b' }", "expected items alone.*found itm"),
        ("a.pbtxt", b"item { id: 1 name: 'a' \n", "line 2: expected the name of a field"),
        ("a.pbtxt", b"item { id: 0 name: 'cat' }", "the id of 'cat' is 0, which is the background's"),
        ("a.pbtxt", b"cat", "line 1: expected ':' after cat"),
        ("a.pbtxt", b"", "does not hold class names"),
        ("missing.txt", None, "No such file"),
    ],
)
def test_what_holds_no_names_is_refused(tmp_path: Path, file: str, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / file).write_bytes(content)
    with pytest.raises(UsageError, match=message) as error:
        read_labels(tmp_path / file)
    assert str(tmp_path / file) in str(error.value)


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("names.txt", "background\ncat\ndog\n"),
        ("names.json", '["cat", "dog"]'),
        ("names.yaml", "{1: cat, 2: dog}"),
        ("config.yaml", "label_map: {1: cat, 2: dog}"),
        ("map.pbtxt", "item { id: 1 name: 'cat' } item { id: 2 name: 'dog' }"),
    ],
)
def test_the_count_must_be_the_models(tmp_path: Path, file: str, text: str) -> None:
    (tmp_path / file).write_text(text)
    assert read_labels(tmp_path / file, 2) == {1: "cat", 2: "dog"}
    for count in (1, 3, 90):
        with pytest.raises(
            UsageError,
            match=f"has 2 names for the categories 1 to 2, and the model has {count} .*text file has {count} lines",
        ):
            read_labels(tmp_path / file, count)


def test_the_official_name_of_cocos_label_map(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("label_map: coco\n")
    assert read_labels(tmp_path / "config.yaml", 90) == COCO_NAMES
