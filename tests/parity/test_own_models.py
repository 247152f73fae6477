"""Models that are no official variant, as users train them: converted with no option, verified layer by layer."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from numpy.typing import NDArray
from rich.console import Console

from converter.conversion import convert_checkpoint, prepare
from converter.errors import ConversionError
from converter.hparams.given import CONFIG_FILE
from converter.identify.architecture import ARCHITECTURE, OF_HEADS
from converter.identify.evidence import ASSUMED, FROM_SHAPES
from converter.identify.settings import NO_SETTINGS
from converter.locate import open_checkpoint
from converter.writers.pth import write_pth
from converter.writers.specs import TensorSpec
from effdet_torch.config import EfficientDetConfig, get_config
from effdet_torch.geometry.anchors import make_anchors_yxyx
from effdet_torch.network.checkpoint import load_model
from effdet_torch.network.model_file import read_model_file
from support.commands import run
from support.quick import mostly_slow
from verify.errors import ParityError
from verify.layers.pairs import layer_pairs
from verify.report.content.layers import runs
from verify.report.content.verdict import COMPLETE
from verify.report.write import render_terminal
from verify.results.verification import Verification
from verify.seeded import write_seeded_checkpoint
from verify.verification import Settings, verify_model

pytest.importorskip("tensorflow")

Hparams = Mapping[str, Any]
State = dict[str, torch.Tensor]
Written = tuple[Path, Path]  # the folder of a checkpoint, the converted file

BY_SHAPES = (*ARCHITECTURE, *OF_HEADS)


@dataclass(frozen=True)
class OwnModel:
    """A model of a user's own.

    Attributes:
        config: what it is, and what must be recognised.
        hparams: the `config.yaml` beside the checkpoint, in official names; there is none if it is empty.
        origins: of the settings that neither `BY_SHAPES` nor the variant tells.
        image_size: (height, width) to verify on.
    """

    config: EfficientDetConfig
    hparams: Hparams = field(default_factory=dict)
    origins: Mapping[str, str] = field(default_factory=dict)
    image_size: tuple[int, int] = (64, 64)

    def write(self, folder: Path) -> Path:
        """Write the checkpoint as training leaves it."""
        write_seeded_checkpoint(self.config, folder)
        if self.hparams:
            (folder / CONFIG_FILE).write_text(yaml.dump(dict(self.hparams)))
        return folder

    def convert(self, folder: Path) -> Written:
        """Write the checkpoint and convert it with no option."""
        checkpoint, path = self.write(folder / "training"), folder / "model.pth"
        with open_checkpoint(checkpoint) as source:
            convert_checkpoint(prepare(source), path)
        return checkpoint, path

    def all_origins(self) -> dict[str, str]:
        names = self.config.to_dict().keys() - set(NO_SETTINGS)
        origins = dict.fromkeys([*names, "backbone_config"], ASSUMED) | dict.fromkeys(BY_SHAPES, FROM_SHAPES)
        if self.config.head_repeats == 1:  # no repeat has an input to add
            origins["survival_prob"] = FROM_SHAPES
        return origins | dict(self.origins)


def training_hparams(config: EfficientDetConfig) -> Hparams:
    """Return what training writes down; YAML gives the image size, a tuple, Python's own tag."""
    return {
        "name": f"efficientdet-{config.name}",
        "backbone_name": config.backbone,
        "backbone_config": None,
        "image_size": config.image_size,
        "num_classes": config.num_classes,
        "label_map": None,
        "min_level": 3,
        "max_level": config.max_level,
        "num_scales": config.num_scales,
        "aspect_ratios": list(config.aspect_ratios),
        "anchor_scale": config.anchor_scale,
        "fpn_num_filters": config.fpn_channels,
        "fpn_cell_repeats": config.fpn_cells,
        "fpn_weight_method": None,
        "box_class_repeats": config.head_repeats,
        "separable_conv": True,
        "act_type": config.activation,
        "mean_rgb": list(config.mean_rgb),
        "stddev_rgb": list(config.std_rgb),
        "scale_range": False,
        "moving_average_decay": 0.9998,
        "nms_configs": {"method": "gaussian", "iou_thresh": None, "sigma": None},
    }


def own(variant: str = "d0", **changes: Any) -> EfficientDetConfig:
    """Return a config with the smallest BiFPN and heads, but for the changes."""
    return get_config(variant, **({"fpn_channels": 8, "fpn_cells": 1, "head_repeats": 1} | changes))


def from_file(*names: str) -> dict[str, str]:
    return dict.fromkeys(names, CONFIG_FILE)


ANCHORS: Mapping[str, Any] = {"num_scales": 3, "aspect_ratios": (1.0, 2.0, 0.5, 3.0, 0.25)}
WIDE = own(num_classes=20, max_level=8, image_size=(384, 640), **ANCHORS)
WRITTEN_DOWN = (
    *("image_size", *ANCHORS, "anchor_scale", "activation", "fusion", "mean_rgb", "std_rgb", "normalization"),
    *("nms_configs", "label_map", "backbone_config"),
)
EVERYTHING = OwnModel(WIDE, training_hparams(WIDE), from_file(*WRITTEN_DOWN), (192, 320))
MODELS: Mapping[str, OwnModel] = {
    "1 class": OwnModel(own(num_classes=1)),
    "600 classes, 3 x 5 anchors": OwnModel(own(num_classes=600, **ANCHORS), ANCHORS, from_file(*ANCHORS)),
    "levels 3-8": OwnModel(own(max_level=8)),
    "20 classes, 3 x 5 anchors, levels 3-8, 384 x 640": EVERYTHING,
    # As wide as a feature of the backbone: P3, or P5 and so P6, enters the BiFPN without a convolution.
    "BiFPN 2 x 40, heads x 2": OwnModel(own(fpn_channels=40, fpn_cells=2, head_repeats=2)),
    "BiFPN 1 x 320": OwnModel(own(fpn_channels=320)),
    "attn": OwnModel(own(fpn_cells=2, fusion="attn"), {"fpn_weight_method": "attn"}, from_file("fusion")),
    "sum": OwnModel(own(fpn_cells=2, fusion="sum"), origins={"fusion": FROM_SHAPES}),
    "lite0, fastattn, 20 classes, levels 3-8, 135 x 190": OwnModel(
        own("lite0", fusion="fastattn", num_classes=20, max_level=8, image_size=(135, 190)),
        {"image_size": "190x135"},
        from_file("image_size"),
        (135, 190),
    ),
}

QUICK = (
    *("600 classes, 3 x 5 anchors", "20 classes, 3 x 5 anchors, levels 3-8, 384 x 640", "attn"),
    "lite0, fastattn, 20 classes, levels 3-8, 135 x 190",
)


def verified(written: Written, settings: Settings | None = None) -> Verification:
    with open_checkpoint(written[0]) as source:
        return verify_model(written[1], source, settings)


def level_sizes(height: int, width: int, max_level: int) -> dict[int, tuple[int, int]]:
    """Return {level: (rows, columns)}: every level has half of the one below, rounded up."""
    return {level: (math.ceil(height / 2**level), math.ceil(width / 2**level)) for level in range(3, max_level + 1)}


@pytest.mark.parametrize("name", mostly_slow(MODELS, QUICK))
def test_converts_with_no_option_and_computes_the_same(name: str, tmp_path: Path) -> None:
    model = MODELS[name]
    written = model.convert(tmp_path)
    metadata = read_model_file(written[1])[1]
    assert EfficientDetConfig.from_dict(metadata["config"]) == model.config
    assert metadata["config_origins"] == model.all_origins()

    result = verified(written, Settings(image_size=model.image_size))
    print_errors(name, result)
    assert result.passed
    with open_checkpoint(written[0]) as source:
        pairs = {(pair.layer.tf, pair.level) for pair in layer_pairs(prepare(source).plan)}
    assert {(found.mode, found.dtype) for found in runs(result)} == COMPLETE
    for found in runs(result):
        layers = {(layer.tf, layer.level) for layer in found.layers}
        assert layers < pairs if found.mode == "fused" else layers == pairs

    anchors, sizes = model.config.anchors_per_location, level_sizes(*model.image_size, model.config.max_level)
    channels = {"class_net/class-predict": anchors * model.config.num_classes, "box_net/box-predict": anchors * 4}
    expected = {(tf, level): (1, *size, count) for tf, count in channels.items() for level, size in sizes.items()}
    assert {(layer.tf, layer.level): layer.shape for layer in result.outputs} == expected


def print_errors(name: str, result: Verification) -> None:
    worst = [f"{found.name} {max(x.measures.max_over_rms for x in found.layers):.1e}" for found in runs(result)]
    for dtype in ("float64", "float32"):
        error = max(x.measures.max_over_rms for x in result.outputs if x.dtype == dtype)
        worst.append(f"outputs, {dtype} {error:.1e}")
    print(f"{name}: {len(runs(result)[0].layers)} layers; {'; '.join(worst)}; {result.seconds:.1f} s")


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Written:
    """The model in which all is the user's own."""
    return EVERYTHING.convert(tmp_path_factory.mktemp("everything"))


def swap_levels(state: State) -> None:
    """Exchange two tensors of one shape: statistics of P7 and of P8, which the variant does not have."""
    one, other = (f"class_net.bn_rep.0.{index}.bn.running_mean" for index in (4, 5))
    state[one], state[other] = state[other], state[one]


def transpose_kernel(state: State) -> None:
    """Exchange input and output channels of a square kernel, as if its transposition were left out."""
    name = "fpn.cell.0.fnode.9.after_combine.conv.conv_pw.weight"
    state[name] = state[name].transpose(0, 1)


def class_major(state: State) -> None:
    """Order the class channels by class and then anchor, not by anchor and then class."""
    for name in ("class_net.predict.conv_pw.weight", "class_net.predict.conv_pw.bias"):
        by_anchor = state[name].reshape(15, 20, -1)
        state[name] = by_anchor.transpose(0, 1).reshape(state[name].shape)


# Mistake -> (layers that fail, diagnosis).
MISTAKES: Mapping[Callable[[State], None], tuple[set[str], str]] = {
    swap_levels: ({"class_net/class-0-bn-7", "class_net/class-0-bn-8"}, "batch norms of two levels exchanged"),
    transpose_kernel: (
        {"fpn_cells/cell_0/fnode9/op_after_combine15/conv", "fpn_cells/cell_0/fnode9"},
        "input and output channels exchanged",
    ),
    class_major: (
        {f"class_net/class-predict (P{level})" for level in range(3, 9)},
        "output channels in another order",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_fails_and_is_named(mistake: Callable[[State], None], everything: Written, tmp_path: Path) -> None:
    state, metadata = read_model_file(everything[1])
    mistake(state)
    arrays = {key: tensor.contiguous().numpy() for key, tensor in state.items()}
    specs = {key: TensorSpec(array.dtype, array.shape) for key, array in arrays.items()}
    with (tmp_path / "wrong.pth").open("wb") as stream:
        write_pth(stream, specs, arrays.items(), metadata)
    settings = Settings(image_size=(64, 64), dtypes=("float64",), modes=("isolated",))
    result = verified((everything[0], tmp_path / "wrong.pth"), settings)
    layers, diagnosis = MISTAKES[mistake]
    assert not result.passed
    assert {layer.name for layer in result.failures} == layers
    assert {found.mistake for found in result.diagnoses} == {diagnosis}
    assert {found.layer for found in result.diagnoses} <= layers
    text = StringIO()
    render_terminal(result, Console(file=text, width=200))
    assert text.getvalue().startswith("FAIL")
    assert all(name in text.getvalue() for name in layers)


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("num_scales=2", "2 scales x 5 aspect ratios, but the heads have 15 anchors per location"),
        ("aspect_ratios=1.0*2.0*0.5", "3 scales x 3 aspect ratios, but the heads have 15 anchors per location"),
        ("num_classes=21", "--hparams sets num_classes to 21, but the checkpoint's shapes show 20"),
        ("max_level=7", "--hparams sets max_level to 7, but the checkpoint's shapes show 8"),
        ("fpn_weight_method=sum", "--hparams sets fpn_weight_method to 'sum', but the checkpoint's fusion is weighted"),
    ],
)
def test_contradictions_are_refused(option: str, words: str, everything: Written) -> None:
    with open_checkpoint(everything[0]) as source, pytest.raises(ConversionError, match=words):
        prepare(source, hparams=option)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_classes": 1}, "its num_classes is 1, the model's 20"),
        ({"max_level": 7}, "its max_level is 7, the model's 8"),
        ({"aspect_ratios": (1.0, 2.0, 0.5)}, "its anchors_per_location is 9, the model's 15"),
    ],
)
def test_the_checkpoint_of_another_model(
    changes: dict[str, Any], words: str, everything: Written, tmp_path: Path
) -> None:
    checkpoint = OwnModel(replace(WIDE, **changes)).write(tmp_path)
    with pytest.raises(ParityError, match=words):
        verified((checkpoint, everything[1]))


def anchors_by_definition(config: EfficientDetConfig) -> NDArray[np.float32]:
    """Return (A, 4), one anchor after the other: level, y, x, octave, aspect ratio; computed in float64."""
    height, width = config.image_size
    anchors = []
    for rows, columns in level_sizes(height, width, config.max_level).values():
        stride_y, stride_x = height / rows, width / columns
        for row, column, octave in np.ndindex(rows, columns, config.num_scales):
            y, x = stride_y / 2 + row * stride_y, stride_x / 2 + column * stride_x
            base = config.anchor_scale * 2 ** (octave / config.num_scales)
            for aspect in config.aspect_ratios:
                half_y = base * stride_y / math.sqrt(aspect) / 2
                half_x = base * stride_x * math.sqrt(aspect) / 2
                anchors.append((y - half_y, x - half_x, y + half_y, x + half_x))
    return np.array(anchors, np.float64).astype(np.float32)


def test_anchors_of_the_converted_file(everything: Written) -> None:
    config = load_model(everything[1]).config
    expected = anchors_by_definition(WIDE)
    assert expected.shape == (15 * (48 * 80 + 24 * 40 + 12 * 20 + 6 * 10 + 3 * 5 + 2 * 3), 4)
    assert np.array_equal(make_anchors_yxyx(config).numpy(), expected)
    # Controls with as many anchors: scales for ratios, height for width, ratios in another order.
    for changes in (
        {"num_scales": 5, "aspect_ratios": (1.0, 2.0, 0.5)},
        {"image_size": (640, 384)},
        {"aspect_ratios": config.aspect_ratios[::-1]},
    ):
        wrong = make_anchors_yxyx(replace(config, **changes)).numpy()
        assert wrong.shape == expected.shape
        assert not np.array_equal(wrong, expected)


@pytest.mark.slow
def test_the_commands(tmp_path: Path) -> None:
    """From another folder: convert with no option, then verify on the model's own size, which is no square."""
    model = OwnModel(get_config("d0", num_classes=20, image_size=(384, 640)), {"image_size": "640x384"})
    model.write(tmp_path / "training")
    (elsewhere := tmp_path / "elsewhere").mkdir()
    done = run("effdet-convert", "../training", "mine.pth", cwd=elsewhere)
    assert (done.returncode, done.stderr) == (0, "")
    assert "d0, 20 classes, 9 anchors per location, 640 x 384 pixels, " in done.stdout
    assert "note" not in done.stdout
    options = ("--dtype", "float64", "--image-size", "640x384")
    done = run("effdet-verify", "mine.pth", "--reference", "../training", *options, cwd=elsewhere)
    print(done.stdout)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("PASS - rests on ")
    assert "All layers agree in what was run: isolated, cumulative and fused, float64 only." in done.stdout
    assert "; 397 layers in 3 runs, " in done.stdout
    for level, (rows, columns) in level_sizes(384, 640, 7).items():
        assert f"Class head P{level}  float64  (1, {rows}, {columns}, 180) " in done.stdout
    assert "All 748 tensors in the file match the checkpoint bit for bit." in done.stdout
