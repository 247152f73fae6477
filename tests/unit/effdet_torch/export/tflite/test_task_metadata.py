"""The metadata for MediaPipe: read back by the converter's own reader, field by field.

`tests/integrations/test_mediapipe.py` runs such files in MediaPipe itself.
"""

from __future__ import annotations

import io
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from converter.formats.flat.flatbuffer import Buffer, Table
from converter.readers.tflite.metadata import NAME, read_labels, read_metadata
from effdet_torch.config import EfficientDetConfig, get_config
from effdet_torch.engines.document import Document, Interface, make_document, plain_profile
from effdet_torch.export.detector import Normalization
from effdet_torch.export.tflite.task_metadata import TASK_METADATA, pixel_scaling, task_metadata, with_labels
from effdet_torch.processing.profiles import PROFILES

LISTED = ["output_1", "output_3", "output_0", "output_2"]  # as the official files list them
LITE = get_config("lite0", num_classes=3, label_map=((1, "cat"), (3, "blue\nwhale")))


def document(config: EfficientDetConfig = LITE, **changes: object) -> Document:
    interface = Interface("detections", image_size=config.image_size, profile=plain_profile(PROFILES["tflite"]))
    return make_document(config, replace(interface, **changes), {}, {})  # type: ignore[arg-type]


def root(content: bytes) -> Table:
    return Buffer(memoryview(content)).root()


def test_what_stands_in_it() -> None:
    content = task_metadata(document(), LISTED)
    assert content[4:8] == b"M001"
    assert root(content).text(0) == "EfficientDet lite0"
    assert root(content).text(7) == "1.2.0"
    (graph,) = root(content).tables(3)
    (image,) = graph.tables(2)
    outputs = list(graph.tables(3))
    assert [output.text(0) for output in outputs] == ["score", "location", "number of detections", "category"]
    (group,) = graph.tables(8)
    assert group.text(0) == "detection_result"
    content_of_image = image.table(3)
    assert content_of_image is not None
    assert content_of_image.integer(0, "<B") == 2  # an image
    properties = content_of_image.table(1)
    assert properties is not None
    assert properties.integer(0, "<b") == 1  # RGB
    boxes = outputs[1].table(3)
    assert boxes is not None
    order = boxes.table(1)
    assert order is not None
    assert order.numbers(0, "<u4").tolist() == [1, 0, 3, 2]
    (labels,) = outputs[3].tables(6)
    assert (labels.text(0), labels.integer(2, "<b")) == ("labels.txt", 3)  # TENSOR_VALUE_LABELS
    assert not list(outputs[0].tables(6))


def test_the_converter_reads_scaling_and_labels() -> None:
    found = read_metadata({NAME: task_metadata(document(), LISTED)})
    assert TASK_METADATA == NAME
    assert found.scaling == ([127.0] * 3, [128.0] * 3)
    assert found.label_file == "labels.txt"


@pytest.mark.parametrize(
    ("config", "lines"),
    [
        (LITE, ["cat", "???", "blue whale"]),
        (get_config("lite0", num_classes=2), ["class 1", "class 2"]),
    ],
)
def test_labels(config: EfficientDetConfig, lines: list[str], tmp_path: Path) -> None:
    content = with_labels(b"a model" * 100, document(config))
    assert content.startswith(b"a model" * 100)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert archive.read("labels.txt").decode().splitlines() == lines
    path = tmp_path / "a.tflite"
    path.write_bytes(content)
    labels, problem = read_labels(path, memoryview(content), "labels.txt")
    assert problem == ""
    assert labels == {number: name for number, name in enumerate(lines, 1) if name != "???"}
    assert content == with_labels(b"a model" * 100, document(config))  # no times in it


@pytest.mark.parametrize("normalization", ["mean_std", "scale_range", "advprop"])
@pytest.mark.parametrize("name", ["lite0", "d0"])
def test_scaling_is_what_the_network_takes(name: str, normalization: str) -> None:
    config = get_config(name, normalization=normalization)
    pixels = np.random.default_rng(0).integers(0, 256, (1, 4, 4, 3), np.uint8)
    mean, deviation = pixel_scaling(config)
    expected = Normalization(config)(torch.from_numpy(pixels)).numpy().transpose(0, 2, 3, 1)
    np.testing.assert_allclose((pixels - mean) / deviation, expected, atol=1e-5)
    assert np.abs(pixels / deviation - expected).max() > 0.1  # negative control


def test_a_network_has_named_outputs() -> None:
    names = [f"output_{number}" for number in reversed(range(10))]
    (graph,) = root(task_metadata(document(outputs="network", profile={}), names)).tables(3)
    assert [output.text(0) for output in graph.tables(3)] == [
        f"{head}_{level}" for head in ("box", "class") for level in range(7, 2, -1)
    ]
