"""Files for the `effdet` package and from it: they load strictly, with the same outputs."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor, nn

from converter.hparams.fields import hparams_of
from effdet_torch import load_model, make_anchors_yxyx
from effdet_torch.config import get_config
from support.commands import run_here
from support.quick import mostly_slow
from verify.seeded import write_seeded_checkpoint

SIZE = (128, 128)
ROUNDING = 1e-5  # of the largest output: the same operations in another order


def quietly(build: Callable[..., nn.Module], *arguments: Any, **settings: Any) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return build(*arguments, pretrained_backbone=False, **settings).eval()


def effdet_model(effdet: ModuleType, name: str, **settings: Any) -> nn.Module:
    return quietly(effdet.create_model, name, image_size=SIZE, **settings)


def outputs(model: nn.Module) -> list[Tensor]:
    images = torch.randn(1, 3, *SIZE, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        class_logits, box_deltas = model.eval()(images)
    return [*class_logits, *box_deltas]


def distance(one: nn.Module, other: nn.Module) -> float:
    """Return the largest difference between the outputs of two models, relative to the largest output."""
    pairs = list(zip(outputs(one), outputs(other), strict=True))
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in pairs)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a checkpoint of d0 and one of lite0 with 7 classes, converted for us and for effdet."""
    folder = tmp_path_factory.mktemp("effdet")
    for config in (get_config("d0"), get_config("lite0", num_classes=7)):
        write_seeded_checkpoint(config, folder / f"tf_{config.name}")
        for name, options in {"ours": [], "effdet": ["--layout", "effdet"]}.items():
            done = run_here("effdet-convert", f"tf_{config.name}", f"{config.name}_{name}.pth", *options, cwd=folder)
            assert done.returncode == 0, done.stderr
            assert ("for effdet: config = get_efficientdet_config('tf_" in done.stdout) == (name != "ours")
    return folder


@pytest.mark.parametrize(("variant", "classes"), [("d0", 90), ("lite0", 7)])
def test_effdet_loads_the_file_and_computes_the_same(
    effdet: ModuleType, files: Path, variant: str, classes: int
) -> None:
    """Strictly, by `checkpoint_path`, as its training and validation scripts do."""
    path, ours = files / f"{variant}_effdet.pth", load_model(files / f"{variant}_ours.pth")
    model = effdet_model(effdet, f"tf_efficientdet_{variant}", num_classes=classes, checkpoint_path=str(path))
    assert distance(model, ours) < ROUNDING
    with torch.no_grad():  # negative control: a bias in front of a batch norm counts
        next(value for key, value in model.named_parameters() if key.endswith("conv_pw.bias")).add_(1)
    assert distance(model, ours) > ROUNDING


@pytest.mark.parametrize(("variant", "classes"), [("d0", 90), ("lite0", 7)])
def test_folded_biases_need_a_setting_of_the_package(
    effdet: ModuleType, files: Path, variant: str, classes: int
) -> None:
    """Its own loader takes our layout, but not as the model of that name: the biases are missing."""
    name, path = f"tf_efficientdet_{variant}", files / f"{variant}_ours.pth"
    with pytest.raises(RuntimeError, match=r"Missing key.*conv_pw\.bias"):
        effdet_model(effdet, name, num_classes=classes, checkpoint_path=str(path))
    settings = {"num_classes": classes, "redundant_bias": False, "checkpoint_path": str(path)}
    assert distance(effdet_model(effdet, name, **settings), load_model(path)) < ROUNDING


def test_biases_that_were_folded_are_written_as_zeros(effdet: ModuleType, files: Path) -> None:
    done = run_here("effdet-convert", "d0_ours.pth", "again.pth", "--layout", "effdet", cwd=files)
    assert "they are written as zeros" in done.stdout
    model = effdet_model(effdet, "tf_efficientdet_d0", checkpoint_path=str(files / "again.pth"))
    assert distance(model, load_model(files / "d0_ours.pth")) < ROUNDING


OWN: dict[str, dict[str, Any]] = {
    "attention": {"fusion": "attn", "fpn_cells": 1, "head_repeats": 1},
    "plain sum": {"fusion": "sum", "fpn_cells": 1, "fpn_channels": 16},
    "levels and anchors": {
        "max_level": 6,
        "num_scales": 2,
        "aspect_ratios": (1.0, 2.0, 0.5, 3.0),
        "num_classes": 5,
        "fpn_cells": 1,
    },
    "relu6": {"activation": "relu6", "fpn_cells": 1, "head_repeats": 1},
    "AdvProp": {"normalization": "advprop", "mean_rgb": (0.0,) * 3, "std_rgb": (1.0,) * 3},
    "pairs and mish": {"aspect_ratios": ((1.0, 1.0), (1.4, 0.7), (0.7, 1.4)), "activation": "mish", "fpn_cells": 1},
    "hard swish": {"activation": "hswish", "fpn_cells": 1},
    "convolutions that are not separable": {"separable_conv": False, "fpn_cells": 1, "head_repeats": 1},
}
UNKNOWN: list[dict[str, Any]] = [
    *({"survival_prob": 0.8}, {"conv_after_downsample": True}, {"fusion": "channel_attn"}, {"fpn_name": "qufpn"}),
    *({"conv_bn_act_pattern": True}, {"apply_bn_for_resampling": False}, {"min_level": 2}),
    *({"normalization": "scale_range"}, {"anchor_scale": (4.0, 4.0, 4.0, 4.0, 5.0)}),
]


@pytest.mark.parametrize("settings", UNKNOWN)
def test_a_network_that_the_package_cannot_build_is_refused(tmp_path: Path, settings: dict[str, Any]) -> None:
    config = get_config("d0", image_size=SIZE, fpn_cells=1, **settings)
    write_seeded_checkpoint(config, tmp_path / "checkpoint")
    (tmp_path / "checkpoint" / "config.yaml").write_text(yaml.safe_dump(hparams_of(config)))
    done = run_here("effdet-convert", "checkpoint", "bare.pth", "--layout", "effdet", cwd=tmp_path)
    assert done.returncode == 2
    assert f"the effdet package cannot build this network: {next(iter(settings))}" in done.stderr
    assert not (tmp_path / "bare.pth").exists()


@pytest.mark.parametrize("name", OWN)
def test_the_code_in_the_report_builds_the_model(effdet: ModuleType, tmp_path: Path, name: str) -> None:
    config = get_config("d0", image_size=SIZE, **OWN[name])
    write_seeded_checkpoint(config, tmp_path / "checkpoint")
    (tmp_path / "checkpoint" / "config.yaml").write_text(yaml.safe_dump(hparams_of(config)))
    for out, layout in (("ours.pth", "effdet_torch"), ("bare.pth", "effdet")):
        done = run_here("effdet-convert", "checkpoint", out, "--layout", layout, cwd=tmp_path)
        assert (done.returncode, done.stderr) == (0, "")
    code = next(line for line in done.stdout.splitlines() if "for effdet: " in line).partition("for effdet: ")[2]
    names = {name: getattr(effdet, name) for name in ("EfficientDet", "get_efficientdet_config")}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exec(code, names)
    model = names["model"]
    model.load_state_dict(torch.load(tmp_path / "bare.pth", weights_only=True), strict=True)
    assert distance(model, load_model(tmp_path / "ours.pth")) < ROUNDING
    if name == "AdvProp":
        assert tuple(model.config.mean) == tuple(model.config.std) == (0.5, 0.5, 0.5)


def test_models_without_tf_load_it_and_compute_something_else(effdet: ModuleType, files: Path) -> None:
    """Negative control, and the reason for the note: keys and shapes are the same, padding and epsilon are not."""
    ours, model = load_model(files / "d0_ours.pth"), effdet_model(effdet, "efficientdet_d0")
    with pytest.raises(RuntimeError, match="Unexpected key"):
        model.load_state_dict(torch.load(files / "d0_effdet.pth", weights_only=True), strict=True)
    model.load_state_dict(torch.load(files / "d0_ours.pth", weights_only=True)["state_dict"], strict=True)
    assert distance(model, ours) > 0.05
    config = effdet.get_efficientdet_config("efficientdet_d0")
    config.update(backbone_name="tf_efficientnet_b0", pad_type="same", image_size=SIZE)
    same = quietly(effdet.EfficientDet, config)
    same.load_state_dict(model.state_dict(), strict=True)
    assert distance(same, ours) < ROUNDING


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("tf_efficientdet_d0", {"num_classes": 3}),
        ("tf_efficientdet_d0", {"redundant_bias": False}),
        ("tf_efficientdet_lite0", {}),
    ],
)
def test_a_published_file_is_a_source(
    effdet: ModuleType, tmp_path: Path, name: str, settings: dict[str, Any], legacy: bool
) -> None:
    """effdet publishes state_dicts, the older ones in the format of PyTorch before 1.6."""
    torch.manual_seed(1)
    model = effdet_model(effdet, name, **settings)
    for norm in model.modules():  # untrained means and variances would hide mistakes
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.normal_(norm.running_mean, 0, 0.1)
            nn.init.uniform_(norm.running_var, 0.5, 1.5)
    torch.save(model.state_dict(), tmp_path / f"{name}-1a2b.pth", _use_new_zipfile_serialization=not legacy)
    done = run_here("effdet-convert", f"{name}-1a2b.pth", "ours.pth", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "the file holds weights only" in done.stdout
    assert ("under a name without tf_" in done.stdout) == (settings.get("redundant_bias") is False)
    ours = load_model(tmp_path / "ours.pth")
    assert ours.config.num_classes == settings.get("num_classes", 90)
    assert distance(ours, model) < ROUNDING
    # And back: the bare state_dict again, bit for bit, where it has biases.
    if "redundant_bias" not in settings:
        done = run_here("effdet-convert", f"{name}-1a2b.pth", "back.pth", "--layout", "effdet", cwd=tmp_path)
        back = torch.load(tmp_path / "back.pth", weights_only=True)
        expected = model.state_dict()
        assert back.keys() == expected.keys()
        assert all(np.array_equal(back[key].numpy(), expected[key].numpy()) for key in expected)


def test_a_training_checkpoint_is_a_source(effdet: ModuleType, tmp_path: Path) -> None:
    """As timm's saver writes it for a bench: both copies, the optimizer, arguments of the script."""
    import argparse

    torch.manual_seed(2)
    bench = effdet.DetBenchTrain(effdet_model(effdet, "tf_efficientdet_d0"))
    average = {key: value * 0.5 if value.is_floating_point() else value for key, value in bench.state_dict().items()}
    torch.save(
        {
            "epoch": 3,
            "arch": "tf_efficientdet_d0",
            "state_dict": bench.state_dict(),
            "optimizer": torch.optim.AdamW(bench.parameters()).state_dict(),
            "args": argparse.Namespace(lr=0.1),
            "state_dict_ema": average,
        },
        tmp_path / "last.pth.tar",
    )
    for view, expected in (("ema", average), ("raw", bench.state_dict())):
        done = run_here(
            "effdet-convert", "last.pth.tar", "out.pth", "--weights", view, "--keep-redundant-bias", cwd=tmp_path
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert "tensors beside the network's" in done.stdout
        found = load_model(tmp_path / "out.pth").state_dict()
        assert all(torch.equal(found[key], expected[f"model.{key}"]) for key in found)


def trained(effdet: ModuleType, name: str, **changes: Any) -> nn.Module:
    """Return a model of the package with changed settings, whose statistics are those of a trained one."""
    torch.manual_seed(3)
    config = effdet.get_efficientdet_config(name)
    config.update(num_classes=3, image_size=SIZE, **changes)
    model = quietly(effdet.EfficientDet, config)
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.normal_(norm.running_mean, 0, 0.1)
            nn.init.uniform_(norm.running_var, 0.5, 1.5)
    return model


WHOLE: dict[str, tuple[str, dict[str, Any], str]] = {
    "d0": ("tf_efficientdet_d0", {}, ""),
    "lite0 in a bench": ("tf_efficientdet_lite0", {}, "DetBenchTrain"),
    "other anchors": ("tf_efficientdet_d0", {"num_scales": 2, "aspect_ratios": [1.0, 3.0], "anchor_scale": 3.0}, ""),
    "attention": ("tf_efficientdet_d0", {"fpn_name": "bifpn_attn", "fpn_cell_repeats": 1}, "DetBenchPredict"),
}


@pytest.mark.parametrize("kind", mostly_slow([kind for kind in WHOLE if kind != "other anchors"], ("d0",)))
def test_a_pickled_model_is_a_source(effdet: ModuleType, tmp_path: Path, kind: str) -> None:
    assert_pickled_model_is_a_source(effdet, tmp_path, *WHOLE[kind])


def test_a_pickled_model_with_other_anchors_is_a_source(effdet: ModuleType, tmp_path: Path) -> None:
    assert_pickled_model_is_a_source(effdet, tmp_path, *WHOLE["other anchors"])


def assert_pickled_model_is_a_source(
    effdet: ModuleType, folder: Path, name: str, changes: dict[str, Any], bench: str
) -> None:
    """Compare outputs, anchors and tensors with the package's own."""
    model = trained(effdet, name, **changes)
    torch.save(getattr(effdet, bench)(model) if bench else model, folder / "whole.pth")
    done = run_here("effdet-convert", "whole.pth", "ours.pth", "--keep-redundant-bias", cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert "the config of the pickled effdet model: image_size [128, 128]" in done.stdout
    ours = load_model(folder / "ours.pth")
    assert distance(ours, model) < ROUNDING
    assert all(torch.equal(tensor, ours.state_dict()[key]) for key, tensor in model.state_dict().items())
    theirs = effdet.anchors.Anchors.from_config(model.config).boxes.numpy()
    assert np.abs(make_anchors_yxyx(ours.config).numpy() - theirs).max() < 1e-4  # pixels


@pytest.mark.parametrize("name", ["tf_efficientdet_d0", "tf_efficientdet_lite0"])
def test_a_training_checkpoint_has_the_packages_anchors(effdet: ModuleType, tmp_path: Path, name: str) -> None:
    """The bare state_dict is the control: official ratios, up to six pixels away at 512 pixels."""
    model = trained(effdet, name)
    size = ["--hparams", "image_size=128"]
    theirs = effdet.anchors.Anchors.from_config(model.config).boxes.numpy()
    for arch, expected in (({"arch": name}, True), ({}, False)):
        torch.save({"state_dict": model.state_dict(), **arch}, tmp_path / "t.pth")
        done = run_here("effdet-convert", "t.pth", "ours.pth", *size, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        ours = make_anchors_yxyx(load_model(tmp_path / "ours.pth").config).numpy()
        assert (np.abs(ours - theirs).max() < 1e-4) == expected


def test_a_pickled_model_without_tf_is_another_one(effdet: ModuleType, tmp_path: Path) -> None:
    model = trained(effdet, "efficientdet_d0")
    torch.save({"net": model}, tmp_path / "whole.pth")
    done = run_here("effdet-convert", "whole.pth", "ours.pth", cwd=tmp_path)
    assert done.returncode == 0
    ours = load_model(tmp_path / "ours.pth")
    assert ours.config.name == "efficientdet_d0"
    assert distance(model, ours) < ROUNDING
