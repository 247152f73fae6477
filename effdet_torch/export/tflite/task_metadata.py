"""The metadata that MediaPipe and TensorFlow Lite's Task Library read: what image goes in, what comes out, labels.

They are a FlatBuffer among the metadata of the file, and a zip archive with the labels behind it.

Source: `metadata_schema.fbs` of the tflite-support project; a table is {number of its field: value} here.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from flatbuffers import Builder
from numpy.typing import NDArray

from effdet_torch.config import EfficientDetConfig
from effdet_torch.engines.document import DETECTIONS, Document
from effdet_torch.engines.runtimes.litert import DETECTION_OUTPUTS

TASK_METADATA = "TFLITE_METADATA"
LABEL_FILE = "labels.txt"
IDENTIFIER = b"M001"
PARSER_VERSION = "1.2.0"  # the first one with groups of tensors
UNNAMED = "???"  # what official label files have for an id without a class
EPOCH = (1980, 1, 1, 0, 0, 0)  # of the archive, so that equal models give equal files
# Members of the schema's unions and enumerations.
FEATURES, IMAGE, BOXES = np.uint8(1), np.uint8(2), np.uint8(3)  # ContentProperties
NORMALIZATION = np.uint8(1)  # ProcessUnitOptions
RGB, BOUNDARIES, VALUE_LABELS = np.int8(1), np.int8(1), np.int8(3)

Table = Mapping[int, Any]
# Output of the detections -> its name and description for these libraries.
OUTPUTS: Final[Mapping[str, tuple[str, str]]] = {
    "boxes": ("location", "Boxes: ymin, xmin, ymax, xmax, divided by the sides of the input."),
    "classes": ("category", "Classes, counted from 0, of the detections."),
    "scores": ("score", "Scores of the detections, best first."),
    "count": ("number of detections", "How many entries of the other outputs are detections."),
}
GROUPED = ("boxes", "classes", "scores")


def task_metadata(document: Document, output_names: list[str]) -> bytes:
    """Return the FlatBuffer.

    Args:
        document: of the file.
        output_names: in the signature, in the order in which the file lists the outputs.
    """
    config, interface = document.config, document.interface
    graph: dict[int, Any] = {2: [_input(config, interface.pixels == "uint8")]}
    if interface.outputs == "detections":
        numbered = {f"output_{number}": name for name, number in zip(DETECTIONS, DETECTION_OUTPUTS, strict=True)}
        graph[3] = [_detection_output(numbered[name]) for name in output_names]
        graph[8] = [{0: "detection_result", 1: [OUTPUTS[name][0] for name in GROUPED]}]
    else:
        names = interface.output_names(config)
        graph[3] = [{0: names[int(name.rpartition("_")[2])], 3: {0: FEATURES, 1: {}}} for name in output_names]
    description = "Finds objects in an image: their boxes, classes and scores. Written by effdet-convert."
    root: Table = {0: f"EfficientDet {config.name}", 1: description, 3: [graph], 7: PARSER_VERSION}
    builder = Builder(1 << 12)
    builder.Finish(_write(builder, root), file_identifier=IDENTIFIER)
    return bytes(builder.Output())


def with_labels(content: bytes, document: Document) -> bytes:
    """Return a file with the archive of labels behind it: a line for each class, in order."""
    names: Mapping[int, str] = document.metadata["label_map"]
    classes = range(1, document.config.num_classes + 1)
    lines = [" ".join(names.get(number, UNNAMED if names else f"class {number}").split()) for number in classes]
    stream = io.BytesIO(content)
    with zipfile.ZipFile(stream, "a") as archive:  # which keeps what stands before it
        archive.writestr(zipfile.ZipInfo(LABEL_FILE, EPOCH), "".join(f"{line}\n" for line in lines))
    return stream.getvalue()


def _input(config: EfficientDetConfig, takes_bytes: bool) -> Table:
    mean, deviation = pixel_scaling(config)
    ends = np.array([[0] * len(mean), [255] * len(mean)], np.float32)
    least, largest = ends if takes_bytes else (ends - mean) / deviation
    height, width = config.image_size
    return {
        0: "image",
        1: f"RGB image of {width} x {height} pixels; a smaller one lies at the top left.",
        3: {0: IMAGE, 1: {0: RGB}},
        4: [{0: NORMALIZATION, 1: {0: mean, 1: deviation}}],
        5: {0: largest, 1: least},
    }


def pixel_scaling(config: EfficientDetConfig) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return mean and deviation, (1,) or (3,) float32, so that (pixel - mean) / deviation is the network's input."""
    mean, deviation = np.array(config.mean_rgb, np.float64), np.array(config.std_rgb, np.float64)
    if config.normalization == "advprop":
        mean, deviation = np.zeros(3), np.ones(3)
    if config.normalization != "mean_std":  # then multiplied by 2 / 255, less 1
        mean, deviation = mean + 127.5 * deviation, 127.5 * deviation
    if len({*mean}) == len({*deviation}) == 1:
        mean, deviation = mean[:1], deviation[:1]
    return mean.astype(np.float32), deviation.astype(np.float32)


def _detection_output(name: str) -> Table:
    called, description = OUTPUTS[name]
    content: dict[int, Any] = {0: FEATURES, 1: {}}
    if name == "boxes":
        content = {0: BOXES, 1: {0: np.array([1, 0, 3, 2], np.uint32), 1: BOUNDARIES}}
    if name in GROUPED:
        content[2] = {0: np.int32(2), 1: np.int32(2)}  # the axis of the detections
    table: dict[int, Any] = {0: called, 1: description, 3: content, 5: {}}
    if name == "classes":
        table[6] = [{0: LABEL_FILE, 1: "Names of the classes, in order.", 2: VALUE_LABELS}]
    return table


def _write(builder: Builder, table: Table) -> int:
    """Write a table behind everything that it refers to, and return where it is."""
    places = {field: _write_part(builder, value) for field, value in table.items() if not isinstance(value, np.integer)}
    builder.StartObject(max(table, default=-1) + 1)
    for field, value in table.items():
        if isinstance(value, np.integer):
            getattr(builder, f"Prepend{value.dtype.name.capitalize()}Slot")(field, int(value), 0)
        else:
            builder.PrependUOffsetTRelativeSlot(field, places[field], 0)
    return int(builder.EndObject())


def _write_part(builder: Builder, value: Any) -> int:
    """Write a text, a table, an array, or a list of texts or tables, and return where it is."""
    if isinstance(value, str):
        return int(builder.CreateString(value))
    if isinstance(value, Mapping):
        return _write(builder, value)
    if isinstance(value, np.ndarray):
        return int(builder.CreateNumpyVector(value))
    places = [_write_part(builder, item) for item in value]
    builder.StartVector(4, len(places), 4)
    for place in reversed(places):
        builder.PrependUOffsetTRelative(place)
    return int(builder.EndVector())
