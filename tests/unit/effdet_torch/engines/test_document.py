from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from effdet_torch.config import get_config
from effdet_torch.engines.document import Interface, make_document, read_document
from effdet_torch.errors import ModelFileError

PATH = Path("d0.onnx")
INTERFACE = Interface(image_size=(384, 640), profile={"sigma": 0.5})
WRITTEN = make_document(get_config("d0"), INTERFACE, {"source": {"name": "mine"}}, {"torch": "2.14"})


def changed(**parts: Any) -> str:
    """Return a document with other entries; those of "export" are replaced one by one."""
    values = json.loads(WRITTEN.to_json())
    values["export"] |= parts.pop("export", {})
    return json.dumps(values | parts)


def test_a_document_is_read_as_it_was_written() -> None:
    found = read_document(PATH, WRITTEN.to_json())
    assert found.interface == INTERFACE
    assert found.config == replace(get_config("d0"), image_size=(384, 640))
    assert found.metadata["source"] == {"name": "mine"}
    assert found.metadata["export"]["with"] == {"torch": "2.14"}
    assert found.interface.output_names(found.config)[::5] == ["class_3", "box_3"]


def test_names_of_any_letters_survive() -> None:
    config = get_config("d0", num_classes=2, label_map=((1, "Äpfel\n\x1b"), (2, "猫")))
    text = make_document(config, INTERFACE, {}, {}).to_json()
    assert text.isascii()
    assert read_document(PATH, text).config.label_map == config.label_map


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "was not written by effdet-export"),
        ("", "was not written by effdet-export"),
        ("{", "are damaged, or another tool's"),
        ("[]", "are damaged, or another tool's"),
        ("{}", "are damaged, or another tool's"),
        (changed(export={"version": 0}), "was exported in version 0; this version reads 1. Export the model again"),
        (changed(export={"version": 99}), "was exported in version 99"),
        (changed(format_version=99), "written in format 99"),
        (changed(config={"name": "d0"}), "do not fit"),
        (changed(export={"batch": -1}), "batch is -1"),
        (changed(export={"batch": 10**9}), "batch is 1000000000"),
        (changed(export={"outputs": "boxes"}), "outputs is 'boxes'; expected network or detections"),
        (changed(export={"pixels": "bgr"}), "pixels is 'bgr'"),
        (changed(export={"image_size": [1]}), "do not fit"),
        (changed(export={"image_size": "no"}), "do not fit"),
        (changed(export={"profile": 3}), "profile is not a dictionary"),
        (changed(export={"more": 3}), "do not fit"),
        (" " * (17 << 20), "expected at most"),
    ],
)
def test_what_is_not_a_document_is_refused(text: str | None, said: str) -> None:
    with pytest.raises(ModelFileError, match=said) as caught:
        read_document(PATH, text)
    assert str(caught.value).startswith(("d0.onnx", "the metadata of d0.onnx"))
    assert "\n" not in str(caught.value)
    read_document(PATH, changed())  # negative control
