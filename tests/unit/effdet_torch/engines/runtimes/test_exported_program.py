from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from effdet_torch.engines.runtimes.exported_program import DOCUMENT, ExportedProgramEngine, read_archive
from effdet_torch.errors import ModelFileError


def write(path: Path, **records: str) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in records.items():
            archive.writestr(f"a/{name.replace('__', '/')}", content)
    return path


@pytest.mark.parametrize(
    ("record", "kind"),
    [
        ("models__model.json", "torch"),
        ("data__aotinductor__model__x.so", "aoti"),
        ("code____torch__.py", "torchscript"),
    ],
)
def test_the_kind_is_known_before_anything_is_loaded(tmp_path: Path, record: str, kind: str) -> None:
    path = write(tmp_path / "a.pt2", **{record: "", DOCUMENT: "{}"})
    assert read_archive(path) == (kind, b"{}")


def test_what_has_no_document_is_not_loaded(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="was not written by effdet-export"):
        ExportedProgramEngine(write(tmp_path / "a.pt2", models__model="{}"))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"something else"])
def test_what_is_not_an_archive_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.pt2"
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match="is damaged, or not a file of torch"):
        ExportedProgramEngine(path)
    with pytest.raises(ModelFileError, match="No such file"):
        ExportedProgramEngine(tmp_path / "none.pt2")
