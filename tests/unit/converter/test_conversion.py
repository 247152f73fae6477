"""The whole conversion of checkpoints in memory: what is decided first, what is written, which metadata describe it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open

from converter.conversion import FORMAT_VERSION, build_metadata, convert_checkpoint, prepare
from converter.errors import AccountingError, ConversionError, UnsupportedSourceError, ViewError
from converter.locate import open_checkpoint
from converter.plan.engine import convert
from effdet_torch import __version__, create_model, load_model
from effdet_torch.config import EfficientDetConfig, get_config
from effdet_torch.errors import ConfigError, UsageError
from support.sources import MemorySource, initial, placeholders, plan_of, seeded, small_config, training_checkpoint

BATCH_NORM = ("/gamma", "/beta", "/moving_mean", "/moving_variance")
CHECKPOINT = training_checkpoint(plan_of(small_config()))


@pytest.mark.parametrize("data", [True, False])  # False: as from an index alone
def test_prepares_without_options(data: bool) -> None:
    prepared = prepare(MemorySource(CHECKPOINT, data=data))
    assert prepared.settings.config == small_config()
    assert prepared.view.name == "ema"
    assert prepared.accounting.problems == []
    momenta = {name: array.size for name, array in CHECKPOINT.items() if name.endswith("/Momentum")}
    assert prepared.parameters == sum(size for name, size in momenta.items() if "/moving_" not in name)
    assert build_metadata(prepared)["redundant_bias"] == "folded"


def test_options_and_the_config_beside_the_checkpoint_are_used(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("image_size: 640x384\nanchor_scale: 5.0\n")
    source = MemorySource(CHECKPOINT, str(tmp_path / "model"))
    prepared = prepare(source, None, "raw", "anchor_scale=3", keep_redundant_bias=True)
    assert prepared.view.name == "raw"
    expected = small_config(image_size=(384, 640), anchor_scale=3.0, redundant_bias=True)
    assert prepared.settings.config == expected
    assert "class_net.conv_rep.0.conv_pw.bias" in prepared.plan.targets


def test_a_detector_with_an_unfinished_segmentation_head_is_converted_without_it() -> None:
    arrays = placeholders(plan_of(small_config(heads=("object_detection", "segmentation"))))
    head = {name for name in arrays if name.startswith("segmentation_head/")}
    assert prepare(MemorySource(arrays)).settings.config.heads == ("object_detection", "segmentation")
    last = max(name for name in head if name.endswith("/bias")).removesuffix("bias")
    unfinished = {name: array for name, array in arrays.items() if not name.startswith(last)}
    prepared = prepare(MemorySource(unfinished))
    assert prepared.settings.config.heads == ("object_detection",)
    reasons = {reason for name, reason in prepared.accounting.ignored.items() if name in head}
    assert reasons == {"segmentation head without its last layer: incomplete, so it is not converted"}
    with pytest.raises(ConversionError, match=r"sets heads to .*segmentation.*, but the checkpoint's shapes show"):
        prepare(MemorySource(unfinished), hparams="heads=object_detection*segmentation")
    with pytest.raises(AccountingError, match="0 missing, 1 unexpected"):  # its last layer is damaged
        prepare(MemorySource(unfinished | {f"{last}kernel": arrays[f"{last}kernel"]}))


BIAS = "box_net/box-0/bias"
INCOMPLETE = {name: array for name, array in CHECKPOINT.items() if not name.startswith(BIAS) or "Momentum" in name}


@pytest.mark.parametrize(
    ("arrays", "options", "error", "words"),
    [
        (CHECKPOINT, {"variant": "d0"}, ConversionError, "not d0: fpn_channels 8"),
        (CHECKPOINT, {"variant": "d9"}, ConfigError, "unknown variant 'd9'"),
        (
            CHECKPOINT,
            {"hparams": "num_classes=3"},
            ConversionError,
            "sets num_classes to 3, but the checkpoint's shape",
        ),
        (CHECKPOINT, {"hparams": "num_classes"}, ConfigError, "not of the form key=value"),
        (
            CHECKPOINT,
            {"hparams": "separable_conv=False"},
            ConversionError,
            "sets separable_conv to False, but the checkp",
        ),
        (CHECKPOINT, {"hparams": "act_type=srelu"}, ConfigError, "act_type = 'srelu' is not supported"),
        (INCOMPLETE, {}, AccountingError, "folder/model is not a complete d0: 1 missing, 0 unexpected, 0 mism"),
        ({"a/b": np.zeros(1, np.float32)}, {}, UnsupportedSourceError, "It looks like another network, which is not"),
        (seeded(plan_of(small_config())), {"weights": "ema"}, ViewError, "no averages"),
    ],
)
def test_refuses_options_and_sources_that_do_not_fit(
    arrays: dict[str, Any], options: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        prepare(MemorySource(arrays), **options)


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".safetensors"])
def test_writes_what_the_engine_converts(tmp_path: Path, suffix: str) -> None:
    prepared, out = prepare(MemorySource(CHECKPOINT)), tmp_path / f"model{suffix}"
    metadata = convert_checkpoint(prepared, out)
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


def test_metadata_describe_the_file(tmp_path: Path) -> None:
    data = tmp_path / "model.data"
    data.write_bytes(b"content")
    source = MemorySource(CHECKPOINT, str(tmp_path / "model.index"))
    source.on_disk = (data,)
    prepared = prepare(source, weights="raw", keep_redundant_bias=True)
    metadata, table = build_metadata(prepared), prepared.plan.table
    assert metadata == {
        "format_version": FORMAT_VERSION,
        "tool": {"name": "effdet-convert", "version": __version__},
        "table": {"name": "efficientdet", "version": table.version, "sha256": table.sha256},
        "variant": "d0",
        "config": small_config(redundant_bias=True).to_dict(),
        "config_origins": dict(prepared.settings.origins),
        "assumed": prepared.settings.assumed,
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


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_the_file_of_an_untrained_network_says_so(tmp_path: Path, suffix: str) -> None:
    plan = plan_of(small_config())
    norms = {name: array for name, array in initial(plan).items() if name.endswith(BATCH_NORM)}
    converted = tmp_path / f"d0{suffix}"
    cases = ((seeded(plan) | norms, ["the whole network"]), (seeded(plan), None))  # the second: negative control
    for values, expected in cases:
        metadata = convert_checkpoint(prepare(MemorySource(values)), converted)
        assert metadata.get("untrained") == load_model(converted).metadata.get("untrained") == expected


def test_a_state_dict_of_initial_values_is_untrained(tmp_path: Path) -> None:
    torch.save(create_model("d0", image_size=128, num_classes=3).state_dict(), path := tmp_path / "state.pth")
    with open_checkpoint(path) as source:
        prepared = prepare(source, hparams={"num_classes": 3})
        assert convert_checkpoint(prepared, tmp_path / "d0.pth")["untrained"] == ["the whole network"]
    assert load_model(tmp_path / "d0.pth").metadata["untrained"] == ["the whole network"]


def test_metadata_name_the_folder_even_if_it_was_given_as_a_dot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "efficientdet-d7"
    folder.mkdir()
    monkeypatch.chdir(folder)
    prepared = prepare(MemorySource(placeholders(plan_of("d7")), "."))
    assert build_metadata(prepared)["source"]["name"] == "efficientdet-d7"
    assert prepared.settings.config == get_config("d7")


def test_an_impossible_output_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    source = MemorySource(CHECKPOINT)
    prepared = prepare(source)
    before = len(source.reads)
    with pytest.raises(UsageError):
        convert_checkpoint(prepared, tmp_path / "absent" / "model.pth")
    assert len(source.reads) == before
