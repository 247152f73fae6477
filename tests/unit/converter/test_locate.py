"""Open what a user names: the checkpoint is found, and everything else is refused by its name."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converter import locate
from converter.errors import CorruptFileError, MissingFileError, SourceError, UnsupportedSourceError
from converter.fetch import download
from converter.formats.file_kind import Format, recognize
from converter.locate import READERS, open_checkpoint
from converter.readers.tensorflow.tensorbundle import TensorBundle
from converter.source import VariableSource
from effdet_torch.errors import ConfigError
from support.tiny_bundle import write_bundle


def bundle_of(step: int, folder: Path, name: str = "") -> Path:
    return write_bundle(folder / (name or f"model.ckpt-{step}"), {"global_step": np.array(step, np.int64)})


def step_of(path: Path) -> int:
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.path == path
        return int(checkpoint.read("global_step"))


def write_state(folder: Path, text: str) -> None:
    (folder / "checkpoint").write_text(text)


def pack(path: Path, folder: Path) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        archive.add(folder, folder.name)
    return path


@pytest.mark.parametrize("suffix", ["", ".index", ".meta", ".data-00000-of-00001"])
def test_prefix_and_files_of_one_checkpoint(tmp_path: Path, suffix: str) -> None:
    prefix = bundle_of(5, tmp_path)
    Path(f"{prefix}.meta").write_bytes(b"graph")
    bundle_of(9, tmp_path)
    assert step_of(Path(f"{prefix}{suffix}")) == 5
    with open_checkpoint(f"{prefix}{suffix}") as checkpoint:
        assert isinstance(checkpoint, TensorBundle)
        assert (checkpoint.prefix, checkpoint.facts.folder) == (prefix, tmp_path)


@pytest.mark.parametrize(
    "state",
    [
        'model_checkpoint_path: "model.ckpt-5"\nall_model_checkpoint_paths: "model.ckpt-9"\n',
        'all_model_checkpoint_paths: "model.ckpt-9"\nmodel_checkpoint_path: "model.ckpt-5"',
        'model_checkpoint_path: "/gone/with/the/machine/model.ckpt-5"',
        'model_checkpoint_path: "gs://bucket/run/model.ckpt-5"',
        r'model_checkpoint_path: "C:\\runs\\model.ckpt-5"',
        r"  model_checkpoint_path:'model\x2eckpt\0555'",
    ],
)
def test_folder_by_its_state_file(tmp_path: Path, state: str) -> None:
    bundle_of(5, tmp_path)
    bundle_of(9, tmp_path)
    write_state(tmp_path, state)
    assert step_of(tmp_path) == 5
    assert step_of(tmp_path / "checkpoint") == 5


def test_state_file_with_paths_elsewhere(tmp_path: Path) -> None:
    bundle_of(5, tmp_path / "run")
    elsewhere = bundle_of(9, tmp_path / "elsewhere", "ähnlich")
    for named in (str(elsewhere), "../elsewhere/ähnlich", "../elsewhere/\\303\\244hnlich"):
        write_state(tmp_path / "run", f'model_checkpoint_path: "{named}"\n')
        assert step_of(tmp_path / "run") == 9


def test_state_file_that_names_nothing_here(tmp_path: Path) -> None:
    bundle_of(5, tmp_path)
    write_state(tmp_path, 'model_checkpoint_path: "model.ckpt-780"\n')
    with pytest.raises(MissingFileError, match=r"'model\.ckpt-780', which does not exist.*holds model\.ckpt-5: pass"):
        open_checkpoint(tmp_path)
    for impossible in ("x" * 5000, "a\\000b"):
        write_state(tmp_path, f'model_checkpoint_path: "{impossible}"')
        for path in (tmp_path, pack(tmp_path.parent / f"{tmp_path.name}.tgz", tmp_path)):
            with pytest.raises(MissingFileError, match="which does not exist"):
                open_checkpoint(path)
    write_state(tmp_path, 'model_checkpoint_path: "unclosed\n')
    with pytest.raises(CorruptFileError, match="expected a line model_checkpoint_path"):
        open_checkpoint(tmp_path)


def test_folder_without_state_file_gives_the_newest(tmp_path: Path) -> None:
    for step in (5, 100, 20):
        bundle_of(step, tmp_path)
    (tmp_path / "._model.ckpt-999.index").write_bytes(b"left by another system")
    assert step_of(tmp_path) == 100
    old, new = bundle_of(1, tmp_path / "named", "a"), bundle_of(2, tmp_path / "named", "b")
    os.utime(f"{old}.index", (2000, 2000))
    os.utime(f"{new}.index", (1000, 1000))
    assert step_of(tmp_path / "named") == 1


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which archives are extracted."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.mark.parametrize("name", ["efficientdet-d0.tar.gz", "download"])  # the content decides, not the name
def test_archive(tmp_path: Path, temporary: Path, name: str) -> None:
    prefix = bundle_of(7, tmp_path / "efficientdet-d0", "model")
    write_state(prefix.parent, 'model_checkpoint_path: "/gone/model"')
    (prefix.parent / "config.yaml").write_text("name: efficientdet-d0\n")
    path = pack(tmp_path / name, prefix.parent)
    with open_checkpoint(path) as checkpoint:
        value = checkpoint.read("global_step")
        assert checkpoint.files() == (path,)
        assert checkpoint.path == path
        assert (checkpoint.facts.folder / "config.yaml").read_text() == "name: efficientdet-d0\n"
    assert value == 7  # although the folder is removed
    assert not list(temporary.iterdir())


def test_state_file_in_an_archive_cannot_point_outside(tmp_path: Path) -> None:
    outside = bundle_of(9, tmp_path / "outside", "secret")
    inside = bundle_of(7, tmp_path / "d0", "model").parent
    for place, named in enumerate((str(outside), "../" * 12 + str(outside))):
        write_state(inside, f'model_checkpoint_path: "{named}"')
        with pytest.raises(MissingFileError, match=rf"{place}\.tgz \(d0/checkpoint\): .*which does not exist"):
            open_checkpoint(pack(tmp_path / f"{place}.tgz", inside))
        assert step_of(inside) == 9 or "../" in named  # a user's own folder may


def test_errors_in_an_archive_name_it_and_leave_nothing(tmp_path: Path, temporary: Path) -> None:
    folder = bundle_of(7, tmp_path / "d0", "model").parent
    (folder / "model.index").write_bytes(b"damaged")
    with pytest.raises(CorruptFileError, match=r"d0\.tgz \(d0/model\.index\): a table's magic number is missing"):
        open_checkpoint(pack(tmp_path / "d0.tgz", folder))
    assert not list(temporary.iterdir())


def test_archives_without_one_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "d0").mkdir()
    (tmp_path / "d0" / "model.tflite").write_bytes(b"x")
    with pytest.raises(UnsupportedSourceError, match=r"without a checkpoint \(it holds d0/model\.tflite\)"):
        open_checkpoint(pack(tmp_path / "0.tgz", tmp_path / "d0"))
    bundle_of(1, tmp_path / "d0" / "a")
    bundle_of(2, tmp_path / "d0" / "b")
    with pytest.raises(UnsupportedSourceError, match=r"checkpoints in 2 folders \(d0/a, d0/b\)"):
        open_checkpoint(pack(tmp_path / "1.tgz", tmp_path / "d0"))
    bundle_of(3, tmp_path / "d0")  # as in a folder, those below do not count
    assert step_of(pack(tmp_path / "2.tgz", tmp_path / "d0")) == 3


SAVED_MODEL = b"\x08\x01\x12\x00"


def test_saved_model_by_any_of_its_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    export = tmp_path / "export"
    prefix = bundle_of(1, export / "variables", "variables")
    (export / "saved_model.pb").write_bytes(SAVED_MODEL)
    (export / "model_frozen.pb").write_bytes(b"\x0a\x00")
    files = [Path(f"{prefix}.index"), Path(f"{prefix}.data-00000-of-00001")]
    for path in (export, export / "saved_model.pb", prefix.parent, prefix, *files, pack(tmp_path / "e.tgz", export)):
        with open_checkpoint(path) as source:
            assert (source.kind, source.path, source.facts.folder.name) == ("TF1 SavedModel", path, "export")
    for folder, path in ((prefix.parent, "variables"), (export, "variables"), (tmp_path, "export")):
        monkeypatch.chdir(folder)
        with open_checkpoint(Path(path)) as source:
            assert source.kind == "TF1 SavedModel"
    with pytest.raises(UnsupportedSourceError, match="a graph without constants"):
        open_checkpoint(export / "model_frozen.pb")


def test_a_checkpoint_beside_a_saved_model_is_the_checkpoint(tmp_path: Path) -> None:
    bundle_of(1, tmp_path / "run" / "variables", "variables")
    (tmp_path / "run" / "saved_model.pb").write_bytes(SAVED_MODEL)
    bundle_of(9, tmp_path / "run")
    assert step_of(tmp_path / "run") == 9
    assert step_of(pack(tmp_path / "run.tgz", tmp_path / "run")) == 9
    assert step_of(tmp_path / "run" / "variables") == 1


def test_saved_model_without_variables(tmp_path: Path) -> None:
    export = tmp_path / "export"
    export.mkdir()
    (export / "saved_model.pb").write_bytes(SAVED_MODEL)
    for path in (export, export / "saved_model.pb", pack(tmp_path / "e.tgz", export)):
        with pytest.raises(UnsupportedSourceError, match=r"this is a SavedModel without variables: its folder variabl"):
            open_checkpoint(path)


def test_a_path_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"model\.ckpt-6: no such file, folder or checkpoint prefix\. Check"):
        open_checkpoint(tmp_path / "model.ckpt-6")
    bundle_of(5, tmp_path)
    with pytest.raises(MissingFileError, match=r"Checkpoints in .*: model\.ckpt-5\."):
        open_checkpoint(tmp_path / "model.ckpt-6")
    (tmp_path / "model.ckpt-5.index").unlink()
    with pytest.raises(MissingFileError, match=r"model\.ckpt-5\.index: no such file"):
        open_checkpoint(tmp_path / "model.ckpt-5.data-00000-of-00001")
    with pytest.raises(UnsupportedSourceError, match="a folder without a checkpoint"):
        open_checkpoint(tmp_path)


def test_an_impossible_file_name(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="cannot be opened: File name too long"):
        open_checkpoint(tmp_path / ("x" * 300))


@pytest.mark.parametrize(
    "url",
    ["http://[", "http://[::1/x", "http://" + "a" * 64 + ".invalid/x", "http://a..b/x", "https://host.invalid/\udc80"],
)
def test_a_broken_url(url: str) -> None:
    with pytest.raises(ConfigError, match="is not a usable address; expected https://HOST/PATH"):
        open_checkpoint(url)


def test_a_url_may_be_longer_than_a_file_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Signed addresses are."""
    url, fetched = f"https://host.invalid/m.tar.gz?{'x' * 5000}", list[str]()

    def fetch(url: str, **_: object) -> Path:
        fetched.append(url)
        return bundle_of(5, tmp_path)

    monkeypatch.setattr(download, "fetch", fetch)
    with open_checkpoint(url) as source:
        assert source.facts.provenance["url"] == "https://host.invalid/m.tar.gz"
    assert fetched == [url]


@pytest.mark.parametrize("suffix", [".index", ".pth"])
def test_a_file_that_turns_unreadable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str) -> None:
    """The reader opens it after it was recognised."""
    path = write_bundle(tmp_path / "m", {"a": np.array(1)}).with_name("m.index")
    if suffix == ".pth":
        path = tmp_path / "m.pth"
        path.write_bytes(b"PK\x03\x04")
    recognised, opened = recognize(path), Path.open

    def refuse(self: Path, *arguments: Any, **options: Any) -> Any:
        if self == path:
            raise PermissionError(13, "Permission denied", str(self))
        return opened(self, *arguments, **options)

    monkeypatch.setattr(locate, "recognize", lambda _: recognised)
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(SourceError, match=rf"m\{suffix}: .*Permission denied"):
        open_checkpoint(path)


def test_a_format_is_added_by_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"\x08\x07")
    found: Format = recognize(path)
    assert found not in READERS
    source = TensorBundle(bundle_of(3, tmp_path / "stand-in"))

    def read(_: Path) -> VariableSource:
        return source

    monkeypatch.setitem(READERS, found, read)
    assert open_checkpoint(path) is source


def test_import_is_light() -> None:
    script = "import sys, converter.locate; print(*(set(sys.modules) & {'tensorflow', 'tarfile', 'crc32c', 'h5py'}))"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == ""


def test_gzip_of_one_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.index.gz"
    path.write_bytes(gzip.compress(b"one file"))
    with pytest.raises(CorruptFileError, match="not a whole tar archive"):
        open_checkpoint(path)
