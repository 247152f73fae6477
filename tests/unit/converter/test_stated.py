"""The metadata of a file are honoured in every later step: the copy, the config, the origins of its values."""

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
from converter.readers.pytorch.state_dict import ONE_COPY
from converter.report import conversion_report, inspection_text
from converter.writers.targets import TARGETS
from effdet_torch.config import get_config
from effdet_torch.errors import ModelFileError
from effdet_torch.network.checkpoint import load_model
from effdet_torch.network.model_file import read_model_file
from effdet_torch.network.saving import save_model
from support.sources import (
    EMA,
    MemorySource,
    placeholders,
    plan_of,
    small_config,
    training_checkpoint,
    write_checkpoint,
)

PLAN = plan_of(small_config())
SUFFIXES = (".pth", ".safetensors", ".h5")


def convert(source: Path, out: Path, **options: Any) -> dict[str, Any]:
    with open_checkpoint(source) as opened:
        return convert_checkpoint(prepare(opened, **options), out, target=None if out.suffix else TARGETS["tf1"])


@pytest.mark.parametrize(("bare", "variants"), [(False, ["d0"]), (True, ["d0", "efficientdet_d0"])])
def test_metadata_exclude_a_variant_with_the_same_tensors(bare: bool, variants: list[str], tmp_path: Path) -> None:
    prepared = prepare(MemorySource(placeholders(plan_of("d0"))))
    convert_checkpoint(prepared, tmp_path / "m.pth", allow_nonfinite=True)
    if bare:
        torch.save(torch.load(tmp_path / "m.pth", weights_only=True)["state_dict"], tmp_path / "m.pth")
    with open_checkpoint(tmp_path / "m.pth") as source:
        assert inspect_source(source)["variants"] == variants


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Raw values and averages that differ."""
    prefix = write_checkpoint(tmp_path_factory.mktemp("checkpoint") / "model.ckpt-7", training_checkpoint(PLAN))
    name = "efficientnet-b0/stem/conv2d/kernel"
    with open_checkpoint(prefix) as source:
        assert not np.array_equal(source.read(name), source.read(f"{name}/{EMA}"))
    return prefix


@pytest.fixture(scope="module")
def begin(checkpoint: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The tensors and the metadata of the converted averages."""
    convert(checkpoint, checkpoint.parent / "begin.pth")
    tensors, metadata = read_model_file(checkpoint.parent / "begin.pth")
    return dict(tensors), dict(metadata)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("view", ["ema", "raw"])
def test_the_copy_keeps_its_name(checkpoint: Path, tmp_path: Path, view: ViewName, suffix: str) -> None:
    one = tmp_path / f"one{suffix}"
    convert(checkpoint, one, weights=view)
    for weights in (None, view):
        metadata = convert(one, tmp_path / "two.pth", weights=weights)
        assert metadata["view"] == {"name": view, "reason": "the only copy in the file, according to its metadata"}
    other = {"ema": "raw", "raw": "ema"}[view]
    with pytest.raises(ViewError, match=r"the only copy in the file is its .*, according to its metadata; to get the"):
        convert(one, tmp_path / "three.pth", weights=other)
    with open_checkpoint(one) as source:
        facts = inspect_source(source)
    assert facts["views"][view]["variables"] == len(PLAN.variables)
    assert facts["views"][other]["variables"] == 0
    assert facts["problems"] == []
    assert "complete, the only copy" in inspection_text(facts)


@pytest.mark.parametrize("suffix", SUFFIXES[:2])
@pytest.mark.parametrize(
    ("stated", "name", "reason"),
    [
        ("ema", "ema", "the only copy in the file, according to its metadata"),
        ("raw", "raw", "the only copy in the file, according to its metadata"),
        ("best", "raw", ONE_COPY),
    ],
)
def test_a_trained_file_says_which_copy_it_holds(
    checkpoint: Path, tmp_path: Path, suffix: str, stated: str, name: str, reason: str
) -> None:
    convert(checkpoint, tmp_path / "begin.pth")
    trained = tmp_path / f"trained{suffix}"
    save_model(load_model(tmp_path / "begin.pth"), trained, training={"weights": stated})
    assert convert(trained, tmp_path / "two.pth")["view"] == {"name": name, "reason": reason}


def test_both_copies_of_a_training_in_pytorch(begin: Any, tmp_path: Path) -> None:
    """A checkpoint that still carries the metadata of the file from which training started."""
    tensors, metadata = begin
    half = {key: tensor * 0.5 if tensor.is_floating_point() else tensor for key, tensor in tensors.items()}
    torch.save({"state_dict": tensors, "state_dict_ema": half, "metadata": metadata}, tmp_path / "last.pth")
    for view, expected in (("ema", half), ("raw", tensors), (None, half)):
        convert(tmp_path / "last.pth", tmp_path / "out.pth", weights=view)
        found, stated = read_model_file(tmp_path / "out.pth")
        assert stated["view"]["name"] == (view or "ema")
        assert torch.equal(found["backbone.conv_stem.weight"], expected["backbone.conv_stem.weight"])


@pytest.mark.parametrize("key", ["ema", "ema_state_dict", "swa"])
@pytest.mark.parametrize("wrapped", [False, True])
def test_averages_under_other_keys_are_used(begin: Any, tmp_path: Path, key: str, wrapped: bool) -> None:
    tensors, _ = begin
    half = {name: tensor * 0.5 if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
    other = {"module": half} if wrapped else half
    torch.save({"state_dict": tensors, key: other, "optimizer": {"state": {}}}, tmp_path / "last.pth")
    for view, expected in (("ema", half), ("raw", tensors), (None, half)):
        convert(tmp_path / "last.pth", tmp_path / "out.pth", weights=view)
        found, stated = read_model_file(tmp_path / "out.pth")
        assert stated["view"]["name"] == (view or "ema")
        assert torch.equal(found["backbone.conv_stem.weight"], expected["backbone.conv_stem.weight"])


def test_what_is_not_kept_is_noted(begin: Any, checkpoint: Path, tmp_path: Path) -> None:
    with open_checkpoint(checkpoint.parent / "begin.pth") as source:
        assert source.facts.notes == ()
    tensors = {**begin[0], "backbone.bn1.num_batches_tracked": torch.tensor(5)}
    wide = {key: tensor.double() if tensor.is_floating_point() else tensor for key, tensor in tensors.items()}
    torch.save(wide, tmp_path / "wide.pth")
    with open_checkpoint(tmp_path / "wide.pth") as source:
        notes = " ".join(source.facts.notes)
    assert "tensors are float64; the result has float32" in notes
    assert "batch counters of batch norms" in notes
    assert "the file holds weights only" in notes


def test_biases_that_were_folded_before(checkpoint: Path, tmp_path: Path) -> None:
    convert(checkpoint, tmp_path / "folded.pth")
    with open_checkpoint(tmp_path / "folded.pth") as source:
        again = conversion_report(prepare(source), None, None)
        kept = conversion_report(prepare(source, keep_redundant_bias=True), None, None)
    assert again["accounting"]["folded"] == []
    assert len(again["notes"]) == 1  # about the custom architecture
    folded = "the biases in front of batch norms were folded in the source already: they are written as zeros"
    assert kept["notes"] == [*again["notes"], folded]
    with open_checkpoint(checkpoint) as source:
        assert conversion_report(prepare(source), None, None)["accounting"]["folded"]


def test_a_checkpoint_with_equal_copies(checkpoint: Path, tmp_path: Path) -> None:
    convert(checkpoint, tmp_path / "folder", weights="raw")
    with open_checkpoint(tmp_path / "folder") as source:
        assert prepare(source).view.reason == "the checkpoint has averages (EMA), which are the same as its raw values"


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_config_file_beside_it_is_not_used(checkpoint: Path, tmp_path: Path, suffix: str) -> None:
    convert(checkpoint, tmp_path / f"m{suffix}", hparams="image_size=640x384")
    (tmp_path / "config.yaml").write_text("num_classes: 77\nimage_size: 64\n")
    with open_checkpoint(tmp_path / f"m{suffix}") as source:
        settings = prepare(source).settings
        assert inspect_source(source)["config_origins"] == settings.origins
    assert settings.config.image_size == (384, 640)
    assert settings.origins["image_size"] == "--hparams"  # according to the file: the first origin
    assert settings.origins["num_classes"] == "names and shapes"


def test_a_bare_state_dict_takes_no_config_file(checkpoint: Path, tmp_path: Path) -> None:
    with open_checkpoint(checkpoint) as source:
        convert_checkpoint(prepare(source), tmp_path / "bare.pth", bare=True)
    (tmp_path / "config.yaml").write_text("image_size: 64\n")
    with open_checkpoint(tmp_path / "bare.pth") as source:
        assert prepare(source).settings.config.image_size == (512, 512)


@pytest.mark.parametrize("config", [5, [["backbone"]], "backbone", None])
def test_an_invalid_config_is_ignored(begin: Any, tmp_path: Path, config: Any) -> None:
    """Metadata of an untrusted file may hold anything where ours hold a dictionary."""
    tensors, metadata = begin
    torch.save({"state_dict": tensors, "metadata": {**metadata, "config": config}}, tmp_path / "m.pth")
    with open_checkpoint(tmp_path / "m.pth") as source:
        assert source.facts.given == ()


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
    with pytest.raises(UnsupportedSourceError, match=r"is written in format 99; this version reads up to 2\. Update"):
        open_checkpoint(tmp_path / f"m{suffix}")
    if suffix != ".h5":
        with pytest.raises(ModelFileError, match="is written in format 99; this version reads up to 2"):
            load_model(tmp_path / f"m{suffix}")


def test_metadata_that_are_not_json(checkpoint: Path, tmp_path: Path) -> None:
    convert(checkpoint, tmp_path / "m.safetensors")
    data = (tmp_path / "m.safetensors").read_bytes()
    (tmp_path / "m.safetensors").write_bytes(data.replace(b'\\"anchor_scale\\": 4.0', b'\\"anchor_scale\\": NaN'))
    with pytest.raises(CorruptFileError, match="effdet_convert does not match its checksum"):
        open_checkpoint(tmp_path / "m.safetensors")
    data = (tmp_path / "m.safetensors").read_bytes().replace(b"effdet_crc32c", b"without_crc32")
    (tmp_path / "m.safetensors").write_bytes(data)
    with pytest.raises(CorruptFileError, match="NaN is not allowed in JSON"):
        open_checkpoint(tmp_path / "m.safetensors")


@pytest.mark.parametrize(
    ("path", "changes"),
    [
        ("efficientdet-d4-640", {"image_size": (640, 640)}),
        ("efficientdet-d4-640.tar.gz", {"image_size": (640, 640)}),
        ("advprop/efficientdet-d4.tar.gz", {"normalization": "advprop", "mean_rgb": (0.0,) * 3, "std_rgb": (1.0,) * 3}),
        ("efficientdet-d4", {}),
        ("d9-640", None),
    ],
)
def test_an_official_name_on_disk_implies_settings(path: str, changes: dict[str, Any] | None) -> None:
    settings = prepare(MemorySource(placeholders(plan_of("d4")), path=path)).settings
    assert settings.config == get_config("d4", **(changes or {}))
    assert bool(settings.assumed) == (changes is None)
    if changes:
        assert settings.origins[next(iter(changes))].startswith("the official d4-")


def test_what_was_assumed_stays_assumed_on_the_way_through_tensorflow(checkpoint: Path, tmp_path: Path) -> None:
    convert(checkpoint, tmp_path / "m.pth", hparams="act_type=relu6")
    with open_checkpoint(tmp_path / "m.pth") as source:
        assumed = prepare(source).settings.assumed
        convert_checkpoint(prepare(source), tmp_path / "folder", target=TARGETS["tf1"])
    assert "image_size" in assumed
    with open_checkpoint(tmp_path / "folder") as source:
        settings = prepare(source).settings
    assert settings.assumed == assumed
    assert (settings.config.activation, settings.origins["activation"]) == ("relu6", "config.yaml")
