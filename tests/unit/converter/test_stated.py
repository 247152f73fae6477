"""What a file states of itself holds through every step: the copy, the config, where its values are from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from converter.conversion import convert_checkpoint, prepare
from converter.errors import CorruptFileError, UnsupportedSourceError, ViewError
from converter.inspection import inspect_source
from converter.locate import open_checkpoint
from converter.plan.copies import ViewName
from converter.report import conversion_report, conversion_text, inspection_text
from converter.writers.targets import TARGETS
from effdet_torch.errors import ModelFileError
from effdet_torch.network.checkpoint import load_model, read_model_file
from support.sources import MemorySource, plan_of, seeded, small_config, training_checkpoint, write_checkpoint

PLAN = plan_of(small_config())
SUFFIXES = (".pth", ".safetensors", ".h5")


def convert(source: Path, out: Path, **options: Any) -> dict[str, Any]:
    with open_checkpoint(source) as opened:
        keep = out.suffix not in (".pth", ".safetensors")
        target = TARGETS["tf1"] if not out.suffix else None
        return convert_checkpoint(prepare(opened, keep_redundant_bias=keep, **options), out, target=target)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Raw values and averages, each with values of their own."""
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint") / "model.ckpt-7", training_checkpoint(PLAN))


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("view", ["ema", "raw"])
def test_the_copy_keeps_its_name(checkpoint: Path, tmp_path: Path, view: ViewName, suffix: str) -> None:
    convert(checkpoint, tmp_path / f"one{suffix}", weights=view)
    metadata = convert(tmp_path / f"one{suffix}", tmp_path / "two.pth")
    assert metadata["view"] == {"name": view, "reason": "the one copy that the file holds, as it says itself"}
    convert(tmp_path / f"one{suffix}", tmp_path / "three.pth", weights=view)
    other = {"ema": "raw", "raw": "ema"}[view]
    with pytest.raises(ViewError, match=r"its one copy is .*, as it says itself; for the other one"):
        convert(tmp_path / f"one{suffix}", tmp_path / "four.pth", weights=other)
    with open_checkpoint(tmp_path / f"one{suffix}") as source:
        facts = inspect_source(source)
    assert facts["views"][view]["variables"] == len(PLAN.variables)
    assert facts["views"][other]["variables"] == 0
    assert facts["problems"] == []
    assert "raw and ema  only one copy" in inspection_text(facts)
    assert len(prepare(source).source.variables) == len(PLAN.variables)


def test_training_goes_on_in_pytorch_with_both_copies(checkpoint: Path, tmp_path: Path) -> None:
    """A checkpoint that still carries the metadata of the file that training began with."""
    metadata = convert(checkpoint, tmp_path / "begin.pth", weights="ema")
    tensors, _ = read_model_file(tmp_path / "begin.pth")
    half = {key: tensor * 0.5 if tensor.is_floating_point() else tensor for key, tensor in tensors.items()}
    content = {"state_dict": tensors, "state_dict_ema": half, "metadata": metadata}
    torch.save(content, tmp_path / "last.pth")
    for view, expected in (("ema", half), ("raw", tensors), (None, half)):
        convert(tmp_path / "last.pth", tmp_path / "out.pth", weights=view)
        found, stated = read_model_file(tmp_path / "out.pth")
        assert stated["view"]["name"] == (view or "ema")
        assert torch.equal(found["backbone.conv_stem.weight"], expected["backbone.conv_stem.weight"])


@pytest.mark.parametrize("key", ["ema", "ema_state_dict", "swa"])
@pytest.mark.parametrize("wrapped", [False, True])
def test_another_network_in_the_file_is_told(checkpoint: Path, tmp_path: Path, key: str, wrapped: bool) -> None:
    convert(checkpoint, tmp_path / "begin.pth")
    tensors, _ = read_model_file(tmp_path / "begin.pth")
    other = {"module": dict(tensors)} if wrapped else dict(tensors)
    torch.save({"state_dict": tensors, key: other, "optimizer": {"state": {}}}, tmp_path / "last.pth")
    with open_checkpoint(tmp_path / "last.pth") as source:
        assert [note for note in source.notes if "another network under" in note] == [
            f"another network under {key!r} is not used; to convert it, save it to a file of its own first"
        ]


def test_what_is_not_kept_is_told(checkpoint: Path, tmp_path: Path) -> None:
    convert(checkpoint, tmp_path / "begin.pth")
    tensors, _ = read_model_file(tmp_path / "begin.pth")
    with open_checkpoint(tmp_path / "begin.pth") as source:
        assert source.notes == ()
    tensors["backbone.bn1.num_batches_tracked"] += 5
    wide = {key: tensor.double() if tensor.is_floating_point() else tensor for key, tensor in tensors.items()}
    torch.save(wide, tmp_path / "wide.pth")
    with open_checkpoint(tmp_path / "wide.pth") as source:
        notes = " ".join(source.notes)
    assert "tensors are float64; the result has float32" in notes
    assert "batch counters of batch norms" in notes
    assert "the file holds weights only" in notes


def test_biases_that_were_folded_before(checkpoint: Path, tmp_path: Path) -> None:
    convert(checkpoint, tmp_path / "folded.pth")
    with open_checkpoint(tmp_path / "folded.pth") as source:
        again = conversion_report(prepare(source), None, None)
        kept = conversion_report(prepare(source, keep_redundant_bias=True), None, None)
    assert again["accounting"]["folded"] == []
    own = again["notes"]  # that the architecture is no official one
    assert len(own) == 1
    assert kept["notes"] == [
        *own,
        "the source has no biases in front of batch norms, they were folded before: they are written as zeros",
    ]
    with open_checkpoint(checkpoint) as source:
        assert conversion_report(prepare(source), None, None)["accounting"]["folded"]


def test_raw_values_under_the_names_of_averages_are_told(checkpoint: Path, tmp_path: Path) -> None:
    with open_checkpoint(checkpoint) as source:
        reports = {
            view: conversion_report(prepare(source, weights=view, keep_redundant_bias=True), None, None, TARGETS["tf1"])
            for view in ("raw", "ema")
        }
    assert "raw values are written under the names of averages" in reports["raw"]["notes"][-1]
    assert reports["raw"]["notes"][:-1] == reports["ema"]["notes"]
    convert(checkpoint, tmp_path / "folder", weights="raw")
    with open_checkpoint(tmp_path / "folder") as source:
        assert prepare(source).view.reason == "the checkpoint has averages (EMA), which are the same as its raw values"


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_config_file_beside_it_is_another_ones(checkpoint: Path, tmp_path: Path, suffix: str) -> None:
    convert(checkpoint, tmp_path / f"m{suffix}", hparams="image_size=640x384")
    (tmp_path / "config.yaml").write_text("num_classes: 77\nimage_size: 64\n")
    with open_checkpoint(tmp_path / f"m{suffix}") as source:
        settings = prepare(source).settings
    assert settings.config.image_size == (384, 640)
    assert settings.origins["image_size"] == "--hparams"  # as the file says: where it was from at first
    assert settings.origins["num_classes"] == "names and shapes"


def test_a_bare_state_dict_takes_no_config_file(checkpoint: Path, tmp_path: Path) -> None:
    with open_checkpoint(checkpoint) as source:
        convert_checkpoint(prepare(source), tmp_path / "bare.pth", bare=True)
    (tmp_path / "config.yaml").write_text("image_size: 64\n")
    with open_checkpoint(tmp_path / "bare.pth") as source:
        assert prepare(source).settings.config.image_size == (512, 512)


@pytest.mark.parametrize("config", [5, [["backbone"]], "backbone", None])
def test_a_config_that_is_none_is_not_believed(checkpoint: Path, tmp_path: Path, config: Any) -> None:
    """A stranger's metadata may hold anything where ours hold a dictionary."""
    convert(checkpoint, tmp_path / "begin.pth")
    tensors, metadata = read_model_file(tmp_path / "begin.pth")
    torch.save({"state_dict": tensors, "metadata": {**metadata, "config": config}}, tmp_path / "m.pth")
    with open_checkpoint(tmp_path / "m.pth") as source:
        assert source.given == ()


def test_an_inspection_tells_the_same_origins_as_a_conversion(checkpoint: Path, tmp_path: Path) -> None:
    convert(checkpoint, tmp_path / "m.pth", hparams="image_size=640x384")
    with open_checkpoint(tmp_path / "m.pth") as source:
        assert inspect_source(source)["config_origins"] == prepare(source).settings.origins


def test_provenance_is_a_chain(checkpoint: Path, tmp_path: Path) -> None:
    for name in ("a.pth", "b.h5", "c.safetensors"):
        metadata = convert(checkpoint, tmp_path / name)
        checkpoint = tmp_path / name
    assert metadata["source"]["name"] == "b.h5"
    assert metadata["source"]["from"]["name"] == "a.pth"
    assert metadata["source"]["from"]["from"]["name"] == "model.ckpt-7"


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_files_of_a_later_version_are_refused(
    checkpoint: Path, tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("converter.conversion.FORMAT_VERSION", 99)
    convert(checkpoint, tmp_path / f"m{suffix}")
    with pytest.raises(UnsupportedSourceError, match=r"is written in format 99; this version reads up to 1\. Update"):
        open_checkpoint(tmp_path / f"m{suffix}")
    if suffix != ".h5":
        with pytest.raises(ModelFileError, match="is written in format 99; this version reads up to 1"):
            load_model(tmp_path / f"m{suffix}")


def test_metadata_that_are_no_json(checkpoint: Path, tmp_path: Path) -> None:
    convert(checkpoint, tmp_path / "m.safetensors")
    data = (tmp_path / "m.safetensors").read_bytes()
    (tmp_path / "m.safetensors").write_bytes(data.replace(b'\\"anchor_scale\\": 4.0', b'\\"anchor_scale\\": NaN'))
    with pytest.raises(CorruptFileError, match="NaN is no number"):
        open_checkpoint(tmp_path / "m.safetensors")


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("efficientdet-d4-640/model", "the official d4-640 by its name; if so, pass --hparams image_size=640"),
        ("efficientdet-d4-640.tar.gz", "the official d4-640 by its name; if so, pass --hparams image_size=640"),
        ("advprop/efficientdet-d4.tar.gz", "d4-advprop by its name; if so, pass --hparams mean_rgb=0,stdd"),
        ("efficientdet-d4/model", ""),
        ("d9-640/model", ""),
    ],
)
def test_an_official_name_on_disk_promises_something(path: str, words: str) -> None:
    source = MemorySource(seeded(plan_of("d4")), path=path)
    notes = prepare(source).settings.notes
    if path.endswith("/model"):
        source = MemorySource(source.arrays, path=path.removesuffix("/model"))
        notes = prepare(source).settings.notes
    assert (len(notes) == 1 and words in notes[0]) if words else not notes
    if words:
        hparams = notes[0].rpartition("--hparams ")[2]
        assert prepare(source, hparams=hparams).settings.notes == ()


def test_a_download_is_told(checkpoint: Path, tmp_path: Path) -> None:
    with open_checkpoint(checkpoint) as source:
        source.provenance = {"official": "efficientdet-d0-advprop", "url": "https://there/d0.tar.gz"}
        text = conversion_text(conversion_report(prepare(source, hparams="scale_range=true"), None, None))
    assert "download     efficientdet-d0-advprop https://there/d0.tar.gz\n" in text
    assert "pixels, input x * 2 / 255 - 1 (AdvProp), " in text


def test_the_copies_differ(checkpoint: Path) -> None:
    """Negative control of all above."""
    with open_checkpoint(checkpoint) as source:
        raw, ema = (prepare(source, weights=view) for view in ("raw", "ema"))
        name = "efficientnet-b0/stem/conv2d/kernel"
        assert not np.array_equal(source.read(raw.view.stored[name]), source.read(ema.view.stored[name]))
