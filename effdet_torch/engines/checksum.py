"""The checksum of an exported file: of all its bytes, stated in its own document.

A byte that flips in the weights of an exported file gives a model that looks right. The document states the CRC-32 of
the file that holds it, computed with eight hyphens in the place of the eight digits. Archives of PyTorch have one for
every member, and the weights beside a `.xml` have theirs, which is always checked.
"""

from __future__ import annotations

import os
import re
import zipfile
import zlib
from pathlib import Path

from effdet_torch.errors import ModelFileError, UsageError
from effdet_torch.untrusted.files import ARCHIVE_ERRORS, MAX_MODEL_BYTES, map_file, reason_of, require_regular

CONTENT_CHECKSUM = "content_crc32"  # in the document
UNSEALED = "-" * 8
SEALED = (".onnx", ".xml", ".tflite")  # suffixes of the formats that hold the document as it is
ARCHIVES = (".pt2", ".torchscript")
ARCHIVE_END, END_BYTES = b"PK\x05\x06", 22  # of the last record, which PyTorch writes without a comment
# Within the attribute of a `.xml`, quotation marks are escaped.
STATED = re.compile(rb'(?:"|&quot;)%s(?:"|&quot;): (?:"|&quot;)([0-9a-f]{8}|-{8})(?=["&])' % CONTENT_CHECKSUM.encode())


def seal(path: Path) -> None:
    """Write the checksum of a new file into its document, in the place of `UNSEALED`, if there is one."""
    content = memoryview(path.read_bytes())
    stated = list(STATED.finditer(content))  # more than once where an exporter copies the document
    if any(found[1] != UNSEALED.encode() for found in stated):
        return
    digits = _checksum(content, stated)
    with path.open("r+b") as stream:
        for found in stated:
            stream.seek(found.start(1))
            stream.write(digits)


def require_intact(path: Path) -> None:
    """Compare an exported file with the checksum in it.

    Raises:
        ModelFileError: The file cannot be read, was changed since it was exported, or states no checksum although its
            format has room for one.
        UsageError: Its format has no room for one.
    """
    try:
        if path.suffix.lower() in ARCHIVES:
            _require_intact_archive(path)
            return
        content = map_file(path, MAX_MODEL_BYTES)
    except OSError as error:
        raise ModelFileError(f"cannot read the model file {path}: {reason_of(error)}.") from error
    stated = list(STATED.finditer(content))
    if not stated and path.suffix.lower() not in SEALED:
        raise UsageError(
            f"{path} has no checksum of its content; leave out check_values, or export the model again to a file of "
            f"{', '.join([*SEALED, *ARCHIVES])}"
        )
    if not stated:
        raise ModelFileError(
            f"{path} is damaged, or was written by an earlier version: it states no checksum of its content. Export "
            "the model again with effdet-export."
        )
    if {found[1] for found in stated} != {_checksum(content, stated)}:
        raise _changed(path)


def _checksum(content: memoryview, stated: list[re.Match[bytes]]) -> bytes:
    """Return the digits of the checksum of a file, wherever it states some."""
    checksum = place = 0
    for found in stated:
        checksum = zlib.crc32(UNSEALED.encode(), zlib.crc32(content[place : found.start(1)], checksum))
        place = found.end(1)
    return f"{zlib.crc32(content[place:], checksum):08x}".encode()


def _require_intact_archive(path: Path) -> None:
    """Compare every member with its checksum, and see that nothing is in front of the first, or behind the last."""
    require_regular(path, MAX_MODEL_BYTES)
    with path.open("rb") as stream:
        try:
            stream.seek(-END_BYTES, os.SEEK_END)
            has_end = stream.read().startswith(ARCHIVE_END)
            with zipfile.ZipFile(stream) as archive:
                starts = [member.header_offset for member in archive.infolist()]
                wrong = archive.testzip()
        except ARCHIVE_ERRORS as error:
            raise _changed(path) from error
    if wrong is not None or not has_end or min(starts, default=-1) != 0:
        raise _changed(path)


def _changed(path: Path) -> ModelFileError:
    return ModelFileError(
        f"{path} is damaged, or was changed since it was exported: its content does not fit its checksum. Export the "
        "model again with effdet-export."
    )
