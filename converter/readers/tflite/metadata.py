"""The metadata of TensorFlow Lite's task library in a file: the scaling of the image, and a zip archive with labels.

Source: `metadata_schema.fbs` of the tflite-support project.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from converter.formats.flat.flatbuffer import Buffer, Table
from effdet_torch.untrusted.files import ARCHIVE_ERRORS

NAME = "TFLITE_METADATA"
NORMALIZATION = 1  # of the kinds of processing
LABELS = (2, 3)  # of the kinds of files: of an axis, of values
MAX_LABEL_BYTES = 1 << 20  # 10,000 classes with names of 100 letters
MAX_LIST_BYTES = 1 << 20
MAX_END_BYTES = (1 << 16) + 22
END, LARGE = b"PK\x05\x06", b"PK\x06\x07"  # the end of an archive, and that of one with 64-bit sizes
UNREAD = "names of classes are not read"
UNNAMED = ("", "???")  # what stands for an id without a class


@dataclass(frozen=True)
class Metadata:
    """What the metadata say.

    Attributes:
        scaling: (mean, deviation) of the image's three colours; None if they do not say.
        label_file: the archive's file with the names of classes; "" if they name none.
    """

    scaling: tuple[list[float], list[float]] | None
    label_file: str


def read_metadata(stored: Mapping[str, Any]) -> Metadata:
    """Return what a file's metadata say; nothing where there are none.

    Raises:
        CorruptFileError: They are damaged.
    """
    if NAME not in stored:
        return Metadata(None, "")
    root = Buffer(memoryview(stored[NAME])).root()
    scaling, label_file = None, ""
    for graph in root.tables(3):
        for tensor in graph.tables(2):
            scaling = scaling or _scaling(tensor)
        files = [file for tensor in graph.tables(3) for file in tensor.tables(6)]
        for file in (*files, *graph.tables(4)):
            if file.integer(2, "<b") in LABELS:
                label_file = label_file or file.text(0)
    return Metadata(scaling, label_file)


def _scaling(tensor: Table) -> tuple[list[float], list[float]] | None:
    for unit in tensor.tables(4):
        options = unit.table(1)
        if unit.integer(0, "<B") == NORMALIZATION and options is not None:
            mean, deviation = (options.numbers(field, "<f4").tolist() for field in (0, 1))
            if len(mean) in (1, 3) and len(deviation) in (1, 3):
                return mean * (3 // len(mean)), deviation * (3 // len(deviation))
    return None


def read_labels(path: Path, data: memoryview, name: str) -> tuple[dict[int, str], str]:
    """Return {category: name} from a text file in the archive behind a model, and a note where that is not possible.

    Line n names class n - 1 of the operation, which is category n.

    Args:
        path: the file.
        data: all of its bytes.
        name: of the text file; "" takes the only one.
    """
    try:
        if not _require_small(data):
            return {}, ""
        with zipfile.ZipFile(path) as archive:
            files = [file for file in archive.infolist() if file.filename.lower().endswith(".txt")]
            chosen = [file for file in files if file.filename == name] or files
            if len(chosen) != 1:
                return {}, f"{UNREAD}: the file holds {len(chosen)} text files" if chosen else ""
            with archive.open(chosen[0]) as stream:
                content = stream.read(MAX_LABEL_BYTES + 1)
    except ARCHIVE_ERRORS as error:
        return {}, f"{UNREAD}: the archive in the file is damaged ({error})"
    if len(content) > MAX_LABEL_BYTES:
        return {}, f"{UNREAD}: they have more than {MAX_LABEL_BYTES} bytes"
    lines = content.decode("utf-8", "replace").lstrip("\ufeff").splitlines()
    return {number: line.strip() for number, line in enumerate(lines, start=1) if line.strip() not in UNNAMED}, ""


def _require_small(data: memoryview) -> bool:
    """Return whether an archive follows a model, by the mark of its end.

    Raises:
        ValueError: Its list of files is longer than one of labels needs: `zipfile` would read all of it.
    """
    tail = bytes(data[max(0, len(data) - MAX_END_BYTES) :])
    end = tail.rfind(END)
    if end < 0 or end + 16 > len(tail):
        return False
    if int.from_bytes(tail[end + 12 : end + 16], "little") > MAX_LIST_BYTES or LARGE in tail[max(0, end - 64) : end]:
        raise ValueError(f"its list of files has more than {MAX_LIST_BYTES} bytes")
    return True
