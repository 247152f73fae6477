"""What a source can be converted to, and that a failure leaves nothing half-written."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from converter.conversion import Preparation, convert_checkpoint, prepare
from converter.errors import CorruptFileError
from converter.hparams.fields import config_fields
from converter.locate import open_checkpoint
from converter.plan.copies import stored_names
from converter.writers.targets import TARGETS, choose_target
from effdet_torch.config import get_config
from effdet_torch.errors import OutputError, UsageError
from support.sources import MemorySource, plan_of, seeded, small_config, training_checkpoint

NAMES = {"pth": "model.pth", "safetensors": "model.safetensors", "tf1": "folder", "h5": "model.h5"}
PLAN = plan_of(small_config())
CHECKPOINT = training_checkpoint(PLAN)


@pytest.fixture
def prepared() -> Preparation:
    hparams = "image_size=640x384,anchor_scale=3,mean_rgb=0,stddev_rgb=1,scale_range=true"
    return prepare(MemorySource(CHECKPOINT), hparams=hparams, keep_redundant_bias=True)


@pytest.mark.parametrize(
    ("name", "to", "expected"),
    [
        ("m.pth", None, "pth"),
        ("m.pt", None, "pth"),
        ("m.v1.safetensors", None, "safetensors"),
        ("m.h5", None, "h5"),
        ("m.pt", "pth", "pth"),
        ("folder", "tf1", "tf1"),
        ("model.ckpt-7", "tf1", "tf1"),
    ],
)
def test_targets_by_suffix_and_by_name(tmp_path: Path, name: str, to: str | None, expected: str) -> None:
    assert choose_target(tmp_path / name, to) is TARGETS[expected]


@pytest.mark.parametrize(
    ("name", "to", "words"),
    [
        (
            "m.bin",
            None,
            r"m.bin ends in '.bin'; expected one of .pth, .pt, .safetensors, .h5, or a folder with --to tf1",
        ),
        ("m.onnx", None, r"that is an export: convert to a .pth file, and then: effdet-export FILE.pth m.onnx"),
        ("model", None, "model has no suffix; expected one of[^?]*$"),
        ("m.pth", "h5", "m.pth does not fit --to h5; expected a name that ends in .h5"),
        ("m.h5", "tf1", "m.h5 does not fit --to tf1; expected the name of a folder"),
        ("m", "pth", "expected a name that ends in .pth or .pt"),
        (".", None, "did you swap SOURCE and OUT?"),
        ("absent/m.pth", None, "the folder .*absent does not exist; create it first"),
        ("taken.h5", None, "taken.h5 is a folder; expected the name of a file"),
        ("a_file", "tf1", "a_file is a file; expected the name of a folder"),
        ("m.weights.h5", None, "this suffix for Keras 3 files; name it .*m.h5"),
        ("full", "tf1", r"holds other files \(model.ckpt-1.index\); use a new folder"),
    ],
)
def test_refuses_outputs_that_do_not_fit(tmp_path: Path, name: str, to: str | None, words: str) -> None:
    for folder in ("taken.h5", "full"):
        (tmp_path / folder).mkdir()
    (tmp_path / "a_file").touch()
    (tmp_path / "full" / "model.ckpt-1.index").touch()
    with pytest.raises(UsageError, match=words):
        choose_target(tmp_path / name, to)


@pytest.mark.parametrize("to", NAMES)
def test_every_target_can_be_read_again(prepared: Preparation, tmp_path: Path, to: str) -> None:
    out, seen = tmp_path / NAMES[to], list[tuple[int, int]]()
    convert_checkpoint(prepared, out, lambda done, total: seen.append((done, total)), TARGETS[to])
    specs = TARGETS[to].specs(prepared.plan)
    assert seen == sorted(seen)
    assert len(seen) == len(specs)
    assert seen[-1] == (sum(spec.size_bytes for spec in specs.values()),) * 2
    with open_checkpoint(out) as source:
        again = prepare(source)
        ema = seeded(PLAN, seed=1)
        assert all(np.array_equal(source.read(again.view.stored[name]), ema[name]) for name in ema)
        assert again.settings.config == replace(prepared.settings.config, redundant_bias=False)
        assert again.settings.config.image_size == (384, 640)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("to", NAMES)
def test_a_failure_leaves_nothing(
    prepared: Preparation, tmp_path: Path, to: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, last = prepared.source.read, prepared.view.stored[list(PLAN.variables)[-1]]

    def damaged(name: str) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        if name == last:
            raise CorruptFileError("damaged")
        return read(name)

    def fail() -> dict[str, bytes]:
        with monkeypatch.context() as patch:
            patch.setattr(prepared.source, "read", damaged)
            with pytest.raises(CorruptFileError):
                convert_checkpoint(prepared, tmp_path / NAMES[to], target=TARGETS[to])
        return contents(tmp_path)

    assert fail() == {}
    assert list(tmp_path.iterdir()) == []
    convert_checkpoint(prepared, tmp_path / NAMES[to], target=TARGETS[to])
    before = contents(tmp_path)
    assert before
    assert fail() == before


@pytest.mark.parametrize("to", NAMES)
def test_the_same_input_gives_the_same_bytes(tmp_path: Path, to: str) -> None:
    written = []
    changed = {name: array + np.ones_like(array) for name, array in CHECKPOINT.items()}
    for number, arrays in enumerate((CHECKPOINT, dict(reversed(CHECKPOINT.items())), changed)):
        folder = tmp_path / str(number)
        folder.mkdir()
        convert_checkpoint(prepare(MemorySource(arrays)), folder / NAMES[to], target=TARGETS[to])
        written.append(contents(folder))
    assert written[0] == written[1]
    assert written[0] != written[2]  # negative control


def test_a_folder_that_cannot_be_created(prepared: Preparation, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be created"):
        convert_checkpoint(prepared, tmp_path / "file" / "out", target=TARGETS["tf1"])


# What the official code's `default_detection_configs` sets, of what is written.
OFFICIAL = """
    name image_size num_classes num_scales aspect_ratios anchor_scale act_type backbone_name backbone_config min_level
    max_level mean_rgb stddev_rgb scale_range fpn_num_filters fpn_cell_repeats fpn_weight_method fpn_name fpn_config
    box_class_repeats survival_prob heads seg_num_classes separable_conv apply_bn_for_resampling conv_after_downsample
    conv_bn_act_pattern nms_configs label_map
"""


def test_a_checkpoint_has_both_names_a_step_and_hyperparameters(prepared: Preparation, tmp_path: Path) -> None:
    convert_checkpoint(prepared, tmp_path / "out", target=TARGETS["tf1"])
    copies = list(zip(stored_names(PLAN, "raw").values(), stored_names(PLAN, "ema").values(), strict=True))
    with open_checkpoint(tmp_path / "out") as source:
        assert sorted(source.variables) == sorted([*(name for copy in copies for name in copy), "global_step"])
        assert all(np.array_equal(source.read(raw), source.read(ema)) for raw, ema in copies)
    hparams = yaml.safe_load((tmp_path / "out" / "config.yaml").read_text())
    assert {"taps", "resize", "padding", "backbone_style", "resampling"}.isdisjoint(hparams)  # the official code fails
    config = prepared.settings.config
    assert get_config("d0", **config_fields(hparams), redundant_bias=True) == config
    assert hparams.keys() <= set(OFFICIAL.split())  # the official code refuses any other name


def test_bare_files_have_no_metadata(prepared: Preparation, tmp_path: Path) -> None:
    for name in ("m.pth", "m.safetensors"):
        convert_checkpoint(prepared, tmp_path / name, bare=True)
        with open_checkpoint(tmp_path / name) as source:
            assert source.facts.given == ()
    with pytest.raises(UsageError, match="is for PyTorch files; it cannot be combined with --to h5"):
        convert_checkpoint(prepared, tmp_path / "m.h5", bare=True)
