"""What a file states besides its weights: scaling, labels, the settings of its detections."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from flatbuffers import Builder, flexbuffers

from converter.conversion import prepare
from converter.errors import UnsupportedSourceError
from converter.locate import open_checkpoint
from converter.plan.family import Settings
from converter.readers.tflite import metadata
from converter.readers.tflite.tflite_file import TfliteFile
from support.sources import plan_of, seeded, small_config
from support.tflite_files import build, fill, pack, unpack
from support.tflite_graphs import listing_of
from support.tflite_samples import centred_anchors

CONFIG = small_config(image_size=64, num_classes=3)


@pytest.fixture(scope="module")
def whole() -> bytes:
    listing = listing_of(CONFIG, detects=True)
    return pack(build(listing, fill(listing, seeded(plan_of(CONFIG)), centred_anchors(CONFIG))))


def settings(path: Path, data: bytes) -> tuple[Settings, tuple[str, ...]]:
    path.write_bytes(data)
    with open_checkpoint(path) as source:
        return prepare(source).settings, source.facts.notes


def with_metadata(whole: bytes, content: bytes) -> bytes:
    model, buffer, entry = unpack(whole), schema.BufferT(), schema.MetadataT()
    buffer.data = np.frombuffer(content, np.uint8)
    model.buffers.append(buffer)
    entry.name, entry.buffer = "TFLITE_METADATA", len(model.buffers) - 1
    model.metadata = [entry]
    return pack(model)


def table(builder: Builder, *fields: tuple[int, Any]) -> int:
    """Write a table of offsets and numbers: (field, offset) or (field, (value,))."""
    builder.StartObject(10)
    for field, value in fields:
        if isinstance(value, tuple):
            builder.PrependInt8Slot(field, value[0], 0)
        else:
            builder.PrependUOffsetTRelativeSlot(field, value, 0)
    return int(builder.EndObject())


def vector(builder: Builder, offsets: list[int]) -> int:
    builder.StartVector(4, len(offsets), 4)
    for offset in reversed(offsets):
        builder.PrependUOffsetTRelative(offset)
    return int(builder.EndVector())


def metadata_of(mean: list[float], deviation: list[float], labels: str) -> bytes:
    """Write metadata as the task library does: the scaling of the input, the labels of an output."""
    builder = Builder(256)
    name = builder.CreateString(labels)
    numbers = [builder.CreateNumpyVector(np.array(values, np.float32)) for values in (mean, deviation)]
    options = table(builder, (0, numbers[0]), (1, numbers[1]))
    unit = table(builder, (0, (1,)), (1, options))
    image = table(builder, (4, vector(builder, [unit])))
    file = table(builder, (0, name), (2, (3,)))
    output = table(builder, (6, vector(builder, [file])))
    graph = table(builder, (2, vector(builder, [image])), (3, vector(builder, [output])))
    builder.Finish(table(builder, (3, vector(builder, [graph]))), file_identifier=b"M001")
    return bytes(builder.Output())


def archive(**files: str) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as written:
        for name, text in files.items():
            written.writestr(f"{name}.txt", text)
    return stream.getvalue()


def test_a_float_file_without_metadata_states_no_scaling(whole: bytes, tmp_path: Path) -> None:
    found, _ = settings(tmp_path / "m.tflite", whole)
    assert set(found.assumed) == {"mean_rgb", "stddev_rgb", "scale_range"}
    assert found.config.label_map == ()
    assert found.origins["image_size"] == "the file's input"
    assert found.origins["activation"] == "graph (m.tflite)"


def test_metadata_of_the_task_library(whole: bytes, tmp_path: Path) -> None:
    data = with_metadata(whole, metadata_of([127.0], [128.0], "names.txt"))
    data += archive(names="cat\n???\ndog\n", other="x\n")
    found, notes = settings(tmp_path / "m.tflite", data)
    assert found.config.mean_rgb == (127.0,) * 3
    assert found.config.std_rgb == (128.0,) * 3
    assert found.config.label_map == ((1, "cat"), (3, "dog"))
    assert found.origins["mean_rgb"] == "the file's metadata"
    assert found.origins["label_map"] == "the file's labels"
    assert not found.assumed
    assert not any("names of classes" in note for note in notes)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (archive(a="1\n2\n3\n4\n"), "names of classes are not used: 4 lines for 3 classes"),
        (archive(a="1\n", b="2\n"), "names of classes are not read: the file holds 2 text files"),
        (archive(a="1\n2\n").replace(b"PK\x01\x02", b"PK\x01\x03"), "the archive in the file is damaged"),
    ],
)
def test_labels_that_cannot_be_used_are_said(whole: bytes, tmp_path: Path, content: bytes, words: str) -> None:
    found, notes = settings(tmp_path / "m.tflite", whole + content)
    assert found.config.label_map == ()
    assert any(words in note for note in notes)


def test_labels_beyond_the_limit(whole: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = whole + archive(a="cat\ndog\n")
    assert settings(tmp_path / "m.tflite", data)[0].config.label_map == ((1, "cat"), (2, "dog"))  # negative control
    monkeypatch.setattr(metadata, "MAX_LABEL_BYTES", 4)
    assert any("more than 4 bytes" in note for note in settings(tmp_path / "m.tflite", data)[1])
    monkeypatch.setattr(metadata, "MAX_LIST_BYTES", 4)
    assert any("its list of files has more than 4 bytes" in note for note in settings(tmp_path / "m.tflite", data)[1])


def quantised(whole: bytes, dtype: int, scale: float, zero: int) -> bytes:
    """Make the input one of codes, which a QUANTIZE would turn into the numbers that follow."""
    model = unpack(whole)
    graph = model.subgraphs[0]
    image = graph.tensors[graph.inputs[0]]
    image.type, image.quantization = dtype, schema.QuantizationParametersT()
    image.quantization.scale, image.quantization.zeroPoint = [scale], [zero]
    return pack(model)


@pytest.mark.parametrize(
    ("dtype", "zero", "mean"), [(schema.TensorType.UINT8, 127, 127.0), (schema.TensorType.INT8, -1, 127.0)]
)
def test_a_quantised_input_states_the_scaling(whole: bytes, tmp_path: Path, dtype: int, zero: int, mean: float) -> None:
    found, _ = settings(tmp_path / "m.tflite", quantised(whole, dtype, 1 / 128, zero))
    assert (found.config.mean_rgb, found.config.std_rgb) == ((mean,) * 3, (128.0,) * 3)
    assert found.origins["mean_rgb"] == "the file's quantised input"


def detecting(whole: bytes, **given: float) -> bytes:
    """Change options of the detection operation."""
    model = unpack(whole)
    operator = model.subgraphs[0].operators[-1]
    options = flexbuffers.Loads(bytes(operator.customOptions)) | given
    operator.customOptions = np.frombuffer(bytes(flexbuffers.Dumps(options)), np.uint8)
    return pack(model)


def test_settings_of_the_detection_operation(whole: bytes, tmp_path: Path) -> None:
    given = {"max_detections": 25, "nms_iou_threshold": 0.4, "nms_score_threshold": 0.25, "use_regular_nms": 1}
    found, notes = settings(tmp_path / "m.tflite", detecting(whole, **given))
    expected = {"method": "hard", "iou_thresh": 0.4, "score_thresh": 0.25, "max_output_size": 25}
    assert dict(found.config.nms_configs) == expected
    assert any("--profile tflite-regular" in note for note in notes)
    assert not any("tflite-regular" in note for note in settings(tmp_path / "m.tflite", whole)[1])


def test_several_classes_of_a_box_are_said(whole: bytes, tmp_path: Path) -> None:
    words = "up to 3 classes of a box (max_classes_per_detection)"
    several = {"max_classes_per_detection": 3}
    assert any(words in note for note in settings(tmp_path / "m.tflite", detecting(whole, **several))[1])
    for other in (whole, detecting(whole, **several, use_regular_nms=1)):  # which has no such limit
        assert not any("classes of a box" in note for note in settings(tmp_path / "m.tflite", other)[1])


@pytest.mark.parametrize("overlap", [0.0, 1.5, float("inf"), float("nan")])
def test_an_impossible_overlap_is_refused(whole: bytes, tmp_path: Path, overlap: float) -> None:
    with pytest.raises(UnsupportedSourceError, match=f"the nms_iou_threshold {overlap:g}; expected above 0, up to 1"):
        settings(tmp_path / "m.tflite", detecting(whole, nms_iou_threshold=overlap))


@pytest.mark.parametrize("most", [float("inf"), float("nan"), 0])
def test_no_limit_of_detections(whole: bytes, tmp_path: Path, most: float) -> None:
    found, _ = settings(tmp_path / "m.tflite", detecting(whole, max_detections=most))
    assert "max_output_size" not in dict(found.config.nms_configs)


def test_several_graphs_and_signatures(whole: bytes, tmp_path: Path) -> None:
    """Of several graphs, the one that makes detections is read; they may share their constants."""
    listing = listing_of(CONFIG)
    model = unpack(pack(build(listing, fill(listing, seeded(plan_of(CONFIG)), centred_anchors(CONFIG)))))
    other = unpack(whole)
    graph, offset = other.subgraphs[0], len(model.buffers)
    codes = len(model.operatorCodes)
    for tensor in graph.tensors:
        tensor.buffer += offset
    for operator in graph.operators:
        operator.opcodeIndex += codes
    other.signatureDefs[0].subgraphIndex, other.signatureDefs[0].signatureKey = 1, "tflite"
    model.buffers += other.buffers
    model.operatorCodes += other.operatorCodes
    model.subgraphs.append(graph)
    model.signatureDefs += other.signatureDefs
    (tmp_path / "m.tflite").write_bytes(pack(model))
    with open_checkpoint(tmp_path / "m.tflite") as source:
        assert isinstance(source, TfliteFile)
        assert source.graph_number == 1
        assert dict(prepare(source).settings.config.nms_configs) == {"method": "hard", "iou_thresh": 0.5}
    assert TfliteFile(changed_to(whole, tmp_path / "one.tflite")).graph_number == 0  # negative control


def changed_to(data: bytes, path: Path) -> Path:
    path.write_bytes(data)
    return path
