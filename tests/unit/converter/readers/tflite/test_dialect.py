"""The table of TensorFlow Lite: what its reader refuses, and that it says something of every kind of layer."""

from __future__ import annotations

from importlib import resources

import pytest

from converter.errors import MappingError
from converter.identify.families import DETECTOR
from converter.readers.tflite.dialect import load_dialect, read_dialect

TEXT = (resources.files("mappings") / "tflite.yaml").read_text("utf-8")


SEGMENTATION = {"conv_transpose", "conv_transpose_bias"}  # a file with such a head is refused


def test_every_variable_of_every_kind_has_a_rule() -> None:
    table = DETECTOR.table
    assert table.kinds.keys() >= SEGMENTATION
    for kind, parts in table.kinds.items():
        if kind in SEGMENTATION:
            continue
        names = {name for part in parts for name in part.sources}
        assert names == set(load_dialect().kinds.get(kind, {})), kind


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("{kernel: conv}", "{kernel: convolution}", "unknown rule 'convolution'; expected a number or one of conv"),
        ("version: 1", "version: one", "expected an integer"),
        ("heads:", "head:", "unknown key 'head'"),
        (", box: box_net/", "", "key 'box' is missing"),
    ],
)
def test_a_wrong_table(old: str, new: str, words: str) -> None:
    read_dialect(TEXT)  # negative control
    assert TEXT.count(old) == 1
    with pytest.raises(MappingError, match=rf"mappings/tflite\.yaml.*: {words}"):
        read_dialect(TEXT.replace(old, new))
