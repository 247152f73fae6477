"""Files of other formats, and remains of a failed download, are named as what they are."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import pytest

import support.tiny_bundle as tiny
from converter.errors import CorruptFileError, UnsupportedSourceError
from converter.formats import file_kind as formats
from converter.formats.file_kind import Format, recognize
from converter.locate import open_checkpoint


def zip_of(name: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(name, b"content")
    return buffer.getvalue()


SAVED_SLICES = tiny.table({b"": tiny.nested(1, b"\x0a\x00" * 100), b"\x00w": b""})


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("model.ckpt-5", SAVED_SLICES, "a TensorFlow V1 checkpoint.*version V2"),
        ("model.ckpt-5", tiny.table({b"": tiny.header()}), "index without its suffix.*end in .index"),
        ("d0.keras", zip_of("metadata.json"), "a Keras 3 model archive.*tf-keras"),
        ("download", zip_of("metadata.json"), "a Keras 3 model archive"),
        ("graph.pb", b"node { name: 'input' }", "of unknown kind"),
        ("d0.zip", zip_of("d0/checkpoint"), "a zip archive.*Unpack"),
        ("d0.onnx", b"\x08\x08\x12\x07tf2onnx", "an ONNX model"),
        ("d0.tar.gz", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git-lfs.*git lfs pull"),
        ("d0.tar.gz", b"\n<!DOCTYPE html><html><body>404</body></html>", "a web page"),
        ("d0.tar.gz", b"<?xml version='1.0'?><Error><Code>NoSuchKey</Code></Error>", "a server's error"),
        (
            "d0.xml",
            b'<?xml version="1.0"?>\n<net name="d0" version="11">',
            "an OpenVINO model.*effdet-detect and effdet-verify",
        ),
        ("d0.tar.gz", b"", "an empty file.*download the file again"),
        ("d0.tar", bytes(257) + b"ustar\x0000" + bytes(200), "uncompressed tar"),
        ("notes.txt", b"hello", "of unknown kind"),
    ],
)
def test_other_files_are_named(tmp_path: Path, name: str, content: bytes, text: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UnsupportedSourceError, match=f"{name}: this is .*{text}"):
        open_checkpoint(tmp_path / name)


@pytest.mark.parametrize(
    ("content", "error", "text"),
    [
        (b"version https://git-lfs.github.com/spec/v1\n", UnsupportedSourceError, "git-lfs"),
        (b"<html></html>", UnsupportedSourceError, "web page"),
        (b"", UnsupportedSourceError, "empty file"),
        (SAVED_SLICES, UnsupportedSourceError, "V1 checkpoint"),
        (b"\x00\x00", CorruptFileError, "magic number is missing at the end of its 2 bytes"),
    ],
)
def test_an_index_that_is_something_else(tmp_path: Path, content: bytes, error: type[Exception], text: str) -> None:
    (tmp_path / "m.index").write_bytes(content)
    for path in (tmp_path, tmp_path / "m", tmp_path / "m.index"):
        with pytest.raises(error, match=rf"m\.index: .*{text}"):
            open_checkpoint(path)


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("d0.h5", b"\x89HDF\r\n\x1a\n" + bytes(100), formats.HDF5),
        ("weights", b"\x89HDF\r\n\x1a\n" + bytes(100), formats.HDF5),
        ("d0_frozen.pb", b"\x0a\x20\x0a\x05input", formats.FROZEN_GRAPH),
        ("any.pb", b"\x08\x01\x12\x00", formats.SAVED_MODEL),
        ("graph.pb", b"\x08\x02", formats.UNKNOWN),
        # The first bytes are the length of the header; they may look like a pickle or a ZIP archive.
        ("m.safetensors", b"\x80\x02" + bytes(6) + b'{ "a"', formats.SAFETENSORS),
        ("weights", b"PK" + bytes(6) + b'{"a"', formats.SAFETENSORS),
    ],
)
def test_contents_decide(tmp_path: Path, name: str, content: bytes, kind: Format) -> None:
    (tmp_path / name).write_bytes(content)
    assert recognize(tmp_path / name) == kind


def test_real_files_of_other_formats_are_named(shared: Path) -> None:
    with pytest.raises(UnsupportedSourceError, match="zip"):
        open_checkpoint(shared / "trained_d0_256" / "ref_000000037777.npz")
