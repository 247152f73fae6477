"""The whole conversion on checkpoints in memory: what is settled before, what is written, what is said of it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open

from converter.conversion import (
    FORMAT_VERSION,
    Preparation,
    build_metadata,
    convert_checkpoint,
    describe_files,
    prepare,
    sha256,
)
from converter.errors import AccountingError, ConversionError, UnsupportedSourceError, ViewError
from converter.plan.engine import convert
from converter.writers.targets import choose_target, state_dict_specs
from effdet_torch import __version__
from effdet_torch.config import EfficientDetConfig, get_config
from effdet_torch.errors import ConfigError, UsageError
from support.sources import (
    Array,
    MemorySource,
    averages,
    placeholders,
    plan_of,
    seeded,
    small_config,
    training_checkpoint,
)


@pytest.fixture(scope="module")
def checkpoint() -> dict[str, Array]:
    return training_checkpoint(plan_of(small_config()))


@pytest.fixture
def prepared(checkpoint: dict[str, Array]) -> Preparation:
    return prepare(MemorySource(checkpoint))


def test_prepares_without_a_word_from_the_user(prepared: Preparation, checkpoint: dict[str, Array]) -> None:
    assert prepared.settings.config == small_config()
    assert prepared.view.name == "ema"
    accounting = prepared.accounting
    assert accounting.problems == []
    assert len(accounting.consumed) + len(accounting.other_view) + len(accounting.ignored) == len(checkpoint)
    assert prepared.parameters == sum(array.size for name, array in checkpoint.items() if name.endswith("/Momentum"))


def test_prepares_from_an_index_alone(checkpoint: dict[str, Array]) -> None:
    prepared = prepare(MemorySource(checkpoint, data=False))
    assert prepared.view.name == "ema"
    assert prepared.accounting.problems == []


def test_options_reach_their_place(checkpoint: dict[str, Array]) -> None:
    prepared = prepare(MemorySource(checkpoint), None, "raw", "image_size=640x384", keep_redundant_bias=True)
    assert prepared.view.name == "raw"
    assert prepared.settings.config.image_size == (384, 640)
    assert prepared.settings.config.redundant_bias
    assert "class_net.conv_rep.0.conv_pw.bias" in prepared.plan.targets


def test_a_config_beside_the_checkpoint_is_read(tmp_path: Path, checkpoint: dict[str, Array]) -> None:
    (tmp_path / "config.yaml").write_text("image_size: 640x384\nanchor_scale: 5.0\n")
    prepared = prepare(MemorySource(checkpoint, str(tmp_path / "model")), hparams="anchor_scale=3")
    assert (prepared.settings.config.image_size, prepared.settings.config.anchor_scale) == ((384, 640), 3.0)


def broken(checkpoint: dict[str, Array], **changes: Array | None) -> MemorySource:
    arrays = {name: array for name, array in (checkpoint | changes).items() if array is not None}
    return MemorySource(arrays)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"variant": "d0"}, ConversionError, "not d0: fpn_channels 8"),
        ({"variant": "d9"}, ConfigError, "unknown variant 'd9'"),
        ({"hparams": "num_classes=3"}, ConversionError, "sets num_classes to 3, but the checkpoint's shapes show 2"),
        ({"hparams": "num_classes"}, ConfigError, "not of the form key=value"),
        ({"hparams": "absent.yaml"}, ConfigError, "absent.yaml cannot be read"),
    ],
)
def test_refuses_options_that_do_not_fit(
    checkpoint: dict[str, Array], options: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        prepare(MemorySource(checkpoint), **options)


def test_refuses_an_incomplete_checkpoint(checkpoint: dict[str, Array]) -> None:
    name = "box_net/box-0/bias"
    both = {name: None, f"{name}/ExponentialMovingAverage": None, "stranger": np.zeros(1, np.float32)}
    with pytest.raises(
        AccountingError, match="folder/model is not a complete d0: 1 missing, 1 unexpected, 0 mism"
    ) as caught:
        prepare(broken(checkpoint, **both))
    assert caught.value.problems == [f"missing: {name}/ExponentialMovingAverage", "unexpected: stranger"]


def test_refuses_another_network_and_a_missing_view() -> None:
    with pytest.raises(UnsupportedSourceError, match="It looks like another network, which is not supported"):
        prepare(MemorySource({"a/b": np.zeros(1, np.float32)}))
    with pytest.raises(ViewError, match="no averages"):
        prepare(MemorySource(placeholders(plan_of(small_config()))), weights="ema")


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".safetensors"])
def test_writes_what_the_engine_converts(tmp_path: Path, prepared: Preparation, suffix: str) -> None:
    out = tmp_path / f"model{suffix}"
    calls: list[tuple[int, int]] = []
    metadata = convert_checkpoint(prepared, out, lambda done, total: calls.append((done, total)))
    expected = dict(convert(prepared.source, prepared.plan, prepared.view))
    if suffix == ".safetensors":
        with safe_open(out, "np") as opened:
            found = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118 - not a dict
            assert json.loads(opened.metadata()["effdet_convert"]) == metadata
    else:
        loaded = torch.load(out, weights_only=True)
        found = {key: tensor.numpy() for key, tensor in loaded["state_dict"].items()}
        assert loaded["metadata"] == metadata
        assert list(found) == list(expected)
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[key], expected[key]) for key in expected)
    assert all(found[key].dtype == expected[key].dtype for key in expected)
    assert [path.name for path in tmp_path.iterdir()] == [out.name]
    # Progress ends at the total and never goes back.
    total = sum(array.nbytes for array in expected.values())
    assert calls == sorted(calls)
    assert calls[-1] == (total, total)
    assert len(calls) == len(expected)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_the_same_checkpoint_gives_the_same_file(tmp_path: Path, checkpoint: dict[str, Array], suffix: str) -> None:
    for name in ("a", "b"):
        arrays = dict(reversed(checkpoint.items())) if name == "b" else checkpoint
        convert_checkpoint(prepare(MemorySource(arrays)), tmp_path / f"{name}{suffix}")
    a, b = ((tmp_path / f"{name}{suffix}").read_bytes() for name in "ab")
    assert a == b


def test_a_damaged_variable_leaves_the_old_file(tmp_path: Path, checkpoint: dict[str, Array]) -> None:
    out = tmp_path / "model.pth"
    out.write_bytes(b"precious")
    source = MemorySource(checkpoint)
    prepared = prepare(source)
    source.data = False
    with pytest.raises(ConversionError, match="the data file is not there"):
        convert_checkpoint(prepared, out)
    assert out.read_bytes() == b"precious"
    assert [path.name for path in tmp_path.iterdir()] == ["model.pth"]


def test_metadata_say_what_the_file_is(tmp_path: Path, checkpoint: dict[str, Array]) -> None:
    data = tmp_path / "model.data"
    data.write_bytes(b"content")
    source = MemorySource(checkpoint, str(tmp_path / "model.index"))
    source.on_disk = (data,)
    prepared = prepare(source, weights="raw", keep_redundant_bias=True)
    metadata = build_metadata(prepared)
    table = prepared.plan.table
    assert metadata == {
        "format_version": FORMAT_VERSION,
        "tool": {"name": "effdet-convert", "version": __version__},
        "table": {"name": "efficientdet", "version": table.version, "sha256": table.sha256},
        "variant": "d0",
        "config": small_config(redundant_bias=True).to_dict(),
        "config_origins": dict(prepared.settings.origins),
        "source": {
            "kind": "memory",
            "name": "model.index",
            "files": [{"name": "model.data", "size_bytes": 7, "sha256": hashlib.sha256(b"content").hexdigest()}],
        },
        "view": {"name": "raw", "reason": "asked for"},
        "redundant_bias": "kept",
    }
    assert json.loads(json.dumps(metadata)) == metadata
    assert EfficientDetConfig.from_dict(metadata["config"]) == prepared.settings.config
    without = build_metadata(prepared, checksums=False)
    assert without["source"]["files"] == [{"name": "model.data", "size_bytes": 7}]


def test_metadata_name_the_folder_even_when_it_was_called_a_dot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "efficientdet-d7"
    folder.mkdir()
    monkeypatch.chdir(folder)
    prepared = prepare(MemorySource(placeholders(plan_of("d7")), "."))
    assert build_metadata(prepared)["source"]["name"] == "efficientdet-d7"
    assert prepared.settings.config == get_config("d7")


def test_metadata_tell_folded_from_kept(prepared: Preparation, checkpoint: dict[str, Array]) -> None:
    assert build_metadata(prepared)["redundant_bias"] == "folded"


@pytest.mark.parametrize("kept", [False, True])
def test_specs_are_those_of_the_arrays(kept: bool) -> None:
    plan = plan_of(small_config(redundant_bias=kept))
    prepared = prepare(MemorySource(seeded(plan)), keep_redundant_bias=kept)
    specs = state_dict_specs(prepared.plan)
    arrays = dict(convert(prepared.source, prepared.plan, prepared.view))
    assert list(specs) == list(arrays)
    assert all((specs[key].dtype, specs[key].shape) == (arrays[key].dtype, arrays[key].shape) for key in arrays)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("model.bin", r"ends in '.bin'; expected one of .pth, .pt, .safetensors"),
        ("model", "ends in 'nothing'"),
        ("absent/model.pth", "the folder .*absent does not exist; create it first"),
        ("folder.pth", "is a folder; expected the name of a file"),
    ],
)
def test_refuses_outputs_that_cannot_be_meant(tmp_path: Path, name: str, words: str) -> None:
    (tmp_path / "folder.pth").mkdir()
    with pytest.raises(UsageError, match=words):
        choose_target(tmp_path / name)


def test_an_impossible_output_is_refused_before_anything_is_read(tmp_path: Path, prepared: Preparation) -> None:
    assert isinstance(prepared.source, MemorySource)
    before = len(prepared.source.reads)
    with pytest.raises(UsageError):
        convert_checkpoint(prepared, tmp_path / "absent" / "model.pth")
    assert len(prepared.source.reads) == before


def test_checksums_of_files_of_any_size(tmp_path: Path) -> None:
    for size in (0, 1, (1 << 20) + 1):
        path = tmp_path / str(size)
        path.write_bytes(b"x" * size)
        assert sha256(path) == hashlib.sha256(b"x" * size).hexdigest()
    assert describe_files([], checksums=True) == []


def test_averages_and_raw_values_make_different_files(tmp_path: Path, checkpoint: dict[str, Array]) -> None:
    """Negative control: the silent mistake, the other copy, does not go unseen."""
    states = {}
    for view in ("raw", "ema"):
        out = tmp_path / f"{view}.pth"
        convert_checkpoint(prepare(MemorySource(checkpoint), weights=view), out)
        states[view] = torch.load(out, weights_only=True)["state_dict"]
    alone = MemorySource(averages(seeded(plan_of(small_config()), seed=1)))
    convert_checkpoint(prepare(alone), tmp_path / "alone.pth")
    expected = torch.load(tmp_path / "alone.pth", weights_only=True)["state_dict"]
    assert all(torch.equal(states["ema"][key], expected[key]) for key in expected)
    assert sum(not torch.equal(states["raw"][key], expected[key]) for key in expected) > len(expected) / 2
