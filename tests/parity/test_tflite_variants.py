"""Files of every kind of EfficientDet: the converted network computes what the one that was exported did."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from converter.conversion import prepare
from converter.locate import open_checkpoint
from effdet_torch.config import EfficientDetConfig, get_config
from effdet_torch.network.model import EfficientDet
from support.golden import GoldenCase, error_over_rms, golden_input, load_golden, seeded_view
from support.networks import alive
from support.quick import mostly_slow
from support.sources import plan_of, reverted, small_config
from support.tflite_files import build, fill, pack
from support.tflite_graphs import listing_of
from support.tflite_samples import centred_anchors, converted, outputs

# Of rms, in float64: random networks amplify the one rounding of every folded kernel; measured up to 7e-5. TensorFlow
# Lite's own outputs are as far from those of the network that was exported.
FOLDED = 2e-4
SMALL: dict[str, Any] = {"image_size": 64, "num_classes": 3}
# What differs from the smallest network.
CASES: dict[str, EfficientDetConfig] = {
    "d0": small_config(**SMALL),
    "more levels": small_config(**{**SMALL, "image_size": 256}, max_level=8, fpn_cells=2),
    "finer levels": small_config(**SMALL, min_level=2),
    "sum": small_config(**SMALL, fusion="sum"),
    "weights of channels": small_config(**SMALL, fusion="channel_fastattn", fpn_cells=2),
    "no convolution": small_config(**SMALL, max_level=6, fpn_channels=40),
    "residual heads": small_config(**SMALL, survival_prob=0.8, head_repeats=3),
    "pools first": small_config(**{**SMALL, "image_size": 128}, conv_after_downsample=True, max_level=7),
    "activates last": small_config(**SMALL, conv_bn_act_pattern=True, fpn_cells=2),
    "qufpn": small_config(**{**SMALL, "image_size": 128}, fpn_name="qufpn", fpn_cells=2, max_level=7),
    "hswish": small_config(**SMALL, activation="hswish"),
    "not square": small_config(**{**SMALL, "image_size": (64, 128)}),
    "lite": get_config("lite0", **{**SMALL, "image_size": 128}, fpn_channels=16, fpn_cells=1),
}
QUICK = ("more levels", "weights of channels", "residual heads", "qufpn", "lite")


def exported(config: EfficientDetConfig, path: Path, detects: bool = False) -> EfficientDet:
    """Write the file of a random network, and return that."""
    model = alive(EfficientDet(config)).float().eval()
    variables = reverted({key: value.numpy() for key, value in model.state_dict().items()}, plan_of(config))
    listing = listing_of(config, detects)
    path.write_bytes(pack(build(listing, fill(listing, variables, centred_anchors(config)))))
    return model


def worst(model: EfficientDet, other: EfficientDet) -> float:
    """Return how far two networks are apart in float64, of rms."""
    images = np.random.default_rng(0).normal(0, 1, (1, *model.config.image_size, 3))
    one, two = outputs(model.double(), images), outputs(other.double(), images)
    pairs = [(two.class_logits, one.class_logits), (two.box_deltas, one.box_deltas)]
    return max(error_over_rms(found[level], wanted[level]) for found, wanted in pairs for level in wanted)


# Official outputs -> tolerance, of rms: float32 is up to 1.3e-5 from float64, and two of float32 differ by more.
GOLDEN = {
    "d1_ema_rand_640_f64": 3e-5,
    "d4_raw_rand_256_f64": 1e-5,
    "d6_raw_rand_256": 5e-5,
    "d7x_ema_rand_256_f64": 1e-5,
    "lite2_raw_rand_448_f64": 1e-5,
    "lite4_ema_rand_256": 5e-5,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", GOLDEN)
def test_official_outputs(name: str, shared: Path, seeded: ModuleType, tmp_path: Path) -> None:
    case = GoldenCase.from_path(shared / "reference" / "golden" / f"{name}.npz")
    listing = listing_of(case.config)
    values = fill(listing, seeded_view(shared, seeded, case.config.name, case.view), centred_anchors(case.config))
    (tmp_path / "m.tflite").write_bytes(pack(build(listing, values)))
    found = outputs(converted(tmp_path / "m.tflite", tmp_path), golden_input(shared, seeded, case))
    assert load_golden(case.path).compare_heads(found) < GOLDEN[name]


@pytest.mark.parametrize("case", mostly_slow(CASES, QUICK))
def test_the_network_is_the_same(case: str, tmp_path: Path) -> None:
    config = CASES[case]
    model = exported(config, tmp_path / "m.tflite")
    found = converted(tmp_path / "m.tflite", tmp_path)
    assert worst(model, found) < FOLDED
    names = ("backbone", "fpn_channels", "fpn_cells", "fpn_name", "head_repeats", "levels", "activation", "fusion")
    more = ("num_classes", "image_size", "conv_after_downsample", "conv_bn_act_pattern")
    assert all(getattr(found.config, name) == getattr(config, name) for name in (*names, *more))
    assert bool(found.config.survival_prob) == bool(config.survival_prob)
    with torch.no_grad():
        found.box_net.predict.conv_pw.weight *= 1.01  # negative control
    assert worst(model, found) > 10 * FOLDED


def test_anchors_and_detections(tmp_path: Path) -> None:
    config = small_config(**SMALL, num_scales=2, aspect_ratios=(1.0, 1.5), anchor_scale=(3.0, 3.5, 5.0))
    exported(config, tmp_path / "m.tflite", detects=True)
    with open_checkpoint(tmp_path / "m.tflite") as source:
        settings = prepare(source).settings
    assert settings.config.anchor_scale == config.anchor_scale
    assert settings.config.aspect_ratios == config.aspect_ratios
    assert settings.config.num_scales == config.num_scales
    assert dict(settings.config.nms_configs) == {"method": "hard", "iou_thresh": 0.5}
    assert settings.origins["anchor_scale"] == "the file's anchors"
    assert settings.origins["nms_configs"] == "the file's detection operation"
    assert set(settings.assumed) == {"mean_rgb", "stddev_rgb", "scale_range"}
