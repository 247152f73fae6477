"""One wrong bit in the values of a converted file, in every format: who notices it, and what they say."""

from __future__ import annotations

import json
import shutil
import struct
import zipfile
from pathlib import Path
from typing import Any

import h5py
import pytest
import torch
from click.testing import CliRunner, Result
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import cli
from converter.conversion import convert_checkpoint, prepare
from converter.errors import CorruptFileError
from converter.inspection import inspect_source
from converter.locate import open_checkpoint
from effdet_torch import load_model
from effdet_torch.errors import ModelFileError
from effdet_torch.file_format import CHECKSUMS_KEY, METADATA_KEY
from effdet_torch.network.model_file import read_model_file
from support.coco_samples import small_model, write_coco, write_model
from support.sources import MemorySource, plan_of, seeded, small_config

KEY = "class_net.conv_rep.0.conv_pw.weight"
VARIABLE = "class_net/class-0/pointwise_kernel"
TORCH = pytest.mark.parametrize("name", ["ours.pth", "saved.pth", "ours.safetensors"])
ALL = pytest.mark.parametrize("name", ["ours.pth", "saved.pth", "ours.safetensors", "ours.h5"])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same kind of network, written by effdet-convert in every format and by `torch.save`."""
    folder = tmp_path_factory.mktemp("checksums")
    values = seeded(plan_of(small_config(image_size=(64, 64))))
    source = MemorySource({name: array / 50 for name, array in values.items()})  # else the outputs are not finite
    for name in ("ours.pth", "ours.safetensors", "ours.h5"):
        convert_checkpoint(prepare(source, hparams="image_size=64"), folder / name)
    write_model(folder / "saved.pth")
    write_coco(folder / "coco")
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path / "files")
    return tmp_path / "files"


def place_of_values(path: Path) -> int:
    """Return where the values of one tensor begin."""
    content = path.read_bytes()
    if path.suffix == ".pth":
        number = list(torch.load(path, weights_only=True)["state_dict"]).index(KEY)
        with zipfile.ZipFile(path) as archive:
            (record,) = (info for info in archive.infolist() if info.filename.endswith(f"/data/{number}"))
        name_bytes, extra_bytes = struct.unpack_from("<HH", content, record.header_offset + 26)
        return int(record.header_offset + 30 + name_bytes + extra_bytes)
    if path.suffix == ".safetensors":
        size = int.from_bytes(content[:8], "little")
        begin: int = json.loads(content[8 : 8 + size])[KEY]["data_offsets"][0]
        return 8 + size + begin
    with h5py.File(path) as file:
        offset: int = file["class_net"][f"{VARIABLE}:0"].id.get_offset()
        return offset


def place_of_metadata(path: Path) -> int:
    """Return where a number in the settings stands, which other settings also hold."""
    content = path.read_bytes()
    return content.index(b"fpn_channels") + (content[content.index(b"fpn_channels") :].index(b"8"))


def flip(path: Path, place: int) -> None:
    """Change the lowest bit of a byte."""
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def convert(path: Path) -> None:
    with open_checkpoint(path) as source:
        convert_checkpoint(prepare(source), path.with_name("out.pth"))


def call(command: Any, *words: object) -> Result:
    return CliRunner().invoke(command, [str(word) for word in words])


@TORCH
def test_a_sound_file_has_checksums_and_passes(folder: Path, name: str) -> None:
    load_model(folder / name, check_values=True)


@TORCH
def test_a_wrong_bit_is_noticed_where_it_is_asked_for(folder: Path, name: str) -> None:
    path = folder / name
    before = load_model(path).state_dict()[KEY]
    flip(path, place_of_values(path))
    unnoticed = load_model(path).state_dict()[KEY]  # negative control: the bit is one of the tensor, and loads
    assert (unnoticed != before).sum() == 1
    message = rf"{name} is damaged: {KEY} does not match its checksum\. Copy it again, or convert again\."
    with pytest.raises(ModelFileError, match=message):
        load_model(path, check_values=True)


@ALL
def test_the_converter_always_notices_it(folder: Path, name: str) -> None:
    path = folder / name
    convert(path)  # negative control
    flip(path, place_of_values(path))
    with pytest.raises(
        CorruptFileError, match=rf"{name}: ({KEY}|{VARIABLE}): .*checksum .*Download or copy it again\."
    ):
        convert(path)


@TORCH
def test_every_verification_notices_it(folder: Path, name: str) -> None:
    evaluate = (cli.verify, folder / name, "--coco", folder / "coco", "--workers", 0)
    assert call(*evaluate).exit_code == 0
    flip(folder / name, place_of_values(folder / name))
    for words in (evaluate, (cli.verify, folder / name, "--reference", folder / "ours.h5")):
        done = call(*words)
        assert (done.exit_code, f"{KEY} does not match its checksum" in done.stderr) == (1, True)


def test_detection_notices_it_where_it_is_asked_for(folder: Path) -> None:
    words = (cli.detect, folder / "saved.pth", folder / "coco" / "val2017")
    assert call(*words, "--check-values").exit_code == 0
    flip(folder / "saved.pth", place_of_values(folder / "saved.pth"))
    assert call(*words).exit_code == 0
    done = call(*words, "--check-values")
    assert (done.exit_code, f"{KEY} does not match its checksum" in done.stderr) == (1, True)


# Metadata.


@pytest.mark.parametrize("name", ["ours.safetensors", "ours.h5"])
def test_a_wrong_bit_in_the_metadata_is_noticed(folder: Path, name: str) -> None:
    path = folder / name
    flip(path, place_of_metadata(path))
    with pytest.raises(CorruptFileError, match=rf"{name}: .*{METADATA_KEY} does not match its checksum \(CRC-32C\)"):
        convert(path)
    if name.endswith(".safetensors"):
        assert read_model_file(path)[1]["config"]["fpn_channels"] == 9  # negative control: nothing else notices it
        with pytest.raises(ModelFileError, match=f"damaged: {METADATA_KEY} does not match"):
            read_model_file(path, check_values=True)


def test_a_wrong_bit_in_the_pickle_is_noticed(folder: Path) -> None:
    path = folder / "ours.pth"
    flip(path, path.read_bytes().index(b"TF1 checkpoint" if b"TF1 checkpoint" in path.read_bytes() else b"memory"))
    load_model(path)
    with pytest.raises(ModelFileError, match=r"damaged: archive/data\.pkl does not match its checksum"):
        load_model(path, check_values=True)


@pytest.mark.parametrize("text", ["{", "[]", '{"a": 1}', json.dumps({KEY: "no digits"})])
def test_checksums_that_are_none_are_damage(folder: Path, text: str) -> None:
    path = folder / "ours.safetensors"
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    save_file(load_file(path), path, metadata | {CHECKSUMS_KEY: text})
    load_model(path)
    with pytest.raises(ModelFileError, match=f"damaged: {CHECKSUMS_KEY} does not match"):
        load_model(path, check_values=True)
    with pytest.raises(CorruptFileError, match="damaged safetensors file"):
        convert(path)


# Files without checksums.


def without_checksums(folder: Path, name: str) -> Path:
    """Write a file as earlier versions, or other tools, write it."""
    path = folder / name
    if path.suffix == ".safetensors":
        with safe_open(path, "pt") as file:
            metadata = {key: text for key, text in file.metadata().items() if key != CHECKSUMS_KEY}
        save_file(load_file(path), path, metadata)
    elif path.suffix == ".h5":
        with h5py.File(path, "r+") as file:
            for group in (file, *file.values()):
                del group.attrs[CHECKSUMS_KEY]
    else:
        torch.serialization.set_crc32_options(False)
        try:
            torch.save(torch.load(path, weights_only=True), path)
        finally:
            torch.serialization.set_crc32_options(True)
    return path


@ALL
def test_files_without_checksums_load_and_are_described_so(folder: Path, name: str) -> None:
    algorithm = "CRC-32" if name.endswith(".pth") else "CRC-32C"
    assert f"checksums    {algorithm}\n" in call(cli.inspect, folder / name).stdout
    path = without_checksums(folder, name)
    flip(path, place_of_values(path))
    assert "checksums    none: damaged values cannot be noticed\n" in call(cli.inspect, path).stdout
    with open_checkpoint(path) as source:
        assert inspect_source(source)["checksums"] is None
    convert(path)
    if path.suffix != ".h5":
        load_model(path, check_values=True)


def test_a_bare_file_has_none(folder: Path) -> None:
    with open_checkpoint(folder / "ours.pth") as source:
        convert_checkpoint(prepare(source), folder / "bare.safetensors", bare=True)
    with safe_open(folder / "bare.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}


def test_a_record_that_tensors_share_is_named_itself(tmp_path: Path) -> None:
    model = small_model()
    state = dict(model.state_dict())
    first = next(iter(state))
    state["shared"] = state[first]
    path = tmp_path / "shared.pth"
    torch.save({"state_dict": state, "metadata": {"config": model.config.to_dict()}}, path)
    flip(path, place_of_values(path))
    with pytest.raises(ModelFileError, match=r"damaged: shared/data/\d+ does not match its checksum"):
        read_model_file(path, check_values=True)
