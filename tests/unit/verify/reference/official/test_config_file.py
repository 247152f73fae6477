"""`config.yaml` as the reference finds and reads it: plain data, whoever wrote the file."""

from __future__ import annotations

from pathlib import Path

import pytest

from effdet_torch.untrusted.files import MAX_YAML_BYTES
from verify.errors import ReferenceModelError
from verify.reference.official.config_file import find_config_file, read_config_file


def written(folder: Path, text: str) -> Path:
    (folder / "config.yaml").write_text(text)
    return folder / "config.yaml"


@pytest.mark.parametrize("folder", ["archive", "backup", "archive-1", "backup_2"])
def test_a_copy_of_the_best_checkpoint_has_its_settings_above(folder: str, tmp_path: Path) -> None:
    (tmp_path / folder).mkdir()
    above = written(tmp_path, "num_classes: 3")
    assert find_config_file(tmp_path / folder) == above
    beside = written(tmp_path / folder, "num_classes: 4")
    assert find_config_file(tmp_path / folder) == beside


@pytest.mark.parametrize("folder", ["run", "my_archive", "x.backup"])
def test_other_folders_have_not(folder: str, tmp_path: Path) -> None:
    (tmp_path / folder).mkdir()
    written(tmp_path, "num_classes: 3")
    assert find_config_file(tmp_path / folder) is None


def test_an_archive_named_by_a_relative_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "archive").mkdir()
    monkeypatch.chdir(tmp_path / "archive")
    path = written(tmp_path, "{}")
    assert find_config_file(Path()) == path


def test_a_tuple_and_the_arguments_of_blocks_are_tuples(tmp_path: Path) -> None:
    text = """
    image_size: !!python/tuple [128, 256]
    backbone_config:
      blocks:
      - !!python/object/new:backbone.efficientnet_model.BlockArgs
        - 3
        - [1, 1]
    """
    assert read_config_file(written(tmp_path, text)) == {
        "image_size": (128, 256),
        "backbone_config": {"blocks": [(3, [1, 1])]},
    }


@pytest.mark.parametrize(
    "text",
    [
        "a: !!python/object/apply:os.mkdir [{marker}]",
        "a: !!python/object/new:os.mkdir [{marker}]",
        "a: !!python/object/new:subprocess.Popen [[touch, {marker}]]",
        "a: !!python/object/new:x.BlockArgs {{args: [1], state: 2}}",
        "a: !!python/name:os.system",
        "a: !!python/module:os",
        "a: !!python/tuple 3",
        "a: !!int ''",
        "a: &a {{b: 1}}\nc:\n  <<: [*a, *a]",
        "a: [",
        "{deep}",
    ],
)
def test_what_is_not_plain_is_refused(text: str, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    path = written(tmp_path, text.format(marker=marker, deep="[" * 5000))
    with pytest.raises(ReferenceModelError, match=r"config\.yaml is not the plain YAML that training writes"):
        read_config_file(path)
    assert not marker.exists()


@pytest.mark.parametrize("text", ["", "[1, 2]", "word"])
def test_what_is_no_mapping_is_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(ReferenceModelError, match="expected names and values"):
        read_config_file(written(tmp_path, text))


def test_a_huge_file_and_a_missing_one_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ReferenceModelError, match=r"cannot be read: No such file"):
        read_config_file(tmp_path / "config.yaml")
    with pytest.raises(ReferenceModelError, match=rf"expected at most {MAX_YAML_BYTES}"):
        read_config_file(written(tmp_path, "a: 1 #" + "x" * MAX_YAML_BYTES))
