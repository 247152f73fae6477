"""The official configurations: converted with and without their config.yaml, against the official outputs."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._pytree import tree_leaves

from converter.conversion import Preparation, convert_checkpoint, prepare
from converter.errors import ConversionError
from converter.locate import open_checkpoint
from converter.writers.specs import TensorSpec
from converter.writers.tensorbundle import write_tensorbundle
from effdet_torch import Predictor, load_model, make_anchors_yxyx
from effdet_torch.config import get_config
from effdet_torch.errors import ConfigError
from effdet_torch.network.model import EfficientDet
from effdet_torch.processing.profiles import PROFILES, Profile
from support.official_cases import CASES, OfficialCase, case_folders
from support.quick import mostly_slow
from verify.errors import ParityError
from verify.reference.base import HeadOutputs
from verify.verification import Settings, verify_model

TOLERANCE = 1e-4  # of rms; the worst measured is 1.1e-5
EMA = "ExponentialMovingAverage"
# Case -> the hyperparameter by which it is refused.
REFUSED = {"bb_fused": "backbone_config", "bb_kernel": "backbone_config", "bb_superpixel": "backbone_config"}
# Cases that become another network without their config.yaml, and what is then only assumed.
ANOTHER = {
    "act_hswish": "act_type",
    "act_relu": "act_type",
    "act_relu6": "act_type",
    "conv_after_down": "conv_after_downsample",
    "d0_backbone_lite0": "act_type",
    "fpncfg_attn": "fpn_weight_method",
    "survival_b0": "survival_prob",
    "wm_attn": "fpn_weight_method",
}
ASSUMED_AROUND = {"anchor_scale_list": "anchor_scale", "scale_range": "scale_range", "nms_hard": "nms_configs"}
# One of each kind: refused, another network, equal with other shapes, with another postprocessing.
QUICK = (
    *("act_relu6", "anchor_scale_list", "base", "bb_kernel", "conv_after_down", "fpn_qufpn", "full_conv"),
    *("heads_seg_only", "min_level2", "nms_hard", "scale_range", "survival_b0", "wm_channel_fastattn"),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("cases")
    yield path
    shutil.rmtree(path)


def checkpoint(case: OfficialCase, folder: Path, with_config: bool) -> Path:
    """Write a training checkpoint with raw values and averages."""
    path = folder / f"{case.folder.name}_{'with' if with_config else 'without'}"
    if not path.exists():
        arrays: dict[str, Any] = dict(case.variables("raw"))
        arrays |= {f"{name}/{EMA}": array for name, array in case.variables("ema").items()}
        arrays["global_step"] = np.array(1, np.int64)
        arrays = dict(sorted(arrays.items()))
        path.mkdir()
        specs = {name: TensorSpec(array.dtype, array.shape) for name, array in arrays.items()}
        write_tensorbundle(path / "model.ckpt-1", specs, arrays.items())
        if with_config:
            shutil.copy(case.config_file, path / "config.yaml")
    return path


def converted(path: Path) -> tuple[EfficientDet, Preparation]:
    with open_checkpoint(path) as source:
        preparation = prepare(source)
        convert_checkpoint(preparation, out := path / "model.pth")
    return load_model(out), preparation


def error(case: OfficialCase, model: EfficientDet) -> float:
    with torch.inference_mode():
        outputs = model(torch.from_numpy(case.images).permute(0, 3, 1, 2))
    arrays = iter(tensor.permute(0, 2, 3, 1).numpy() for tensor in tree_leaves(outputs))
    levels = model.config.levels if model.config.detects else ()
    classes, boxes = ({level: next(arrays) for level in levels} for _ in range(2))
    return case.error(HeadOutputs(classes, boxes, next(arrays, None)))


@pytest.fixture
def case(request: pytest.FixtureRequest, shared: Path, seeded: ModuleType) -> OfficialCase:
    return OfficialCase(case_folders(shared)[request.param], seeded)


@pytest.mark.parametrize("case", mostly_slow(CASES, QUICK), indirect=True)
def test_with_its_config(case: OfficialCase, folder: Path) -> None:
    name = case.folder.name
    path = checkpoint(case, folder, with_config=True)
    if name in REFUSED:
        with pytest.raises(ConfigError, match=f"hyperparameter {REFUSED[name]} is not supported"):
            converted(path)
        return
    model, preparation = converted(path)
    assert error(case, model) < TOLERANCE
    assert preparation.settings.assumed == {}


@pytest.mark.parametrize("case", mostly_slow(CASES, QUICK), indirect=True)
def test_without_it_equal_refused_or_the_difference_is_assumed(case: OfficialCase, folder: Path) -> None:
    name = case.folder.name
    try:
        model, preparation = converted(checkpoint(case, folder, with_config=False))
    except ConversionError:
        assert name in {*REFUSED, "fpn_qufpn", "fpncfg_fewer"}
        return
    is_equal = error(case, model) < TOLERANCE
    assert is_equal == (name not in ANOTHER)
    for difference in (ANOTHER.get(name), ASSUMED_AROUND.get(name)):
        assert difference is None or difference in preparation.settings.assumed


@pytest.mark.parametrize("case", mostly_slow(ANOTHER, ("act_relu6",)), indirect=True)
def test_the_proof_notices_another_network(case: OfficialCase, folder: Path) -> None:
    """Converted without its config.yaml, and verified against the checkpoint with it."""
    settings = Settings(image_size=(128, 128), dtypes=("float32",))
    without = checkpoint(case, folder, with_config=False)
    converted(without)
    with open_checkpoint(checkpoint(case, folder, with_config=True)) as source:
        result = verify_model(without / "model.pth", source, settings)
    assert not result.passed
    assert result.failures
    with open_checkpoint(without) as source:
        assert verify_model(without / "model.pth", source, settings).passed


@pytest.mark.parametrize("case", ["survival_b0"], indirect=True)
def test_additions_that_no_layer_alone_shows_are_missed(case: OfficialCase, folder: Path) -> None:
    settings = Settings(image_size=(128, 128), dtypes=("float32",), modes=("isolated",))
    without = checkpoint(case, folder, with_config=False)
    converted(without)
    with (
        open_checkpoint(checkpoint(case, folder, with_config=True)) as source,
        pytest.raises(ParityError, match=r"class_net/class-1-add was not compared: .* \(survival_prob\)"),
    ):
        verify_model(without / "model.pth", source, settings)


@pytest.mark.parametrize("case", ["scale_range"], indirect=True)
def test_scale_range_follows_mean_and_deviation(case: OfficialCase, folder: Path) -> None:
    model, _ = converted(checkpoint(case, folder, with_config=True))
    grey = np.full((128, 128, 3), 200, np.uint8)
    pixels, _ = Predictor(model).prepare([grey])
    mean, std = np.array(model.config.mean_rgb), np.array(model.config.std_rgb)
    expected = (200 - mean) / std * 2 / 255 - 1
    np.testing.assert_allclose(pixels[0].mean(axis=(1, 2)), expected, atol=1e-6)
    assert expected[0] == pytest.approx(-0.990, abs=1e-3)


@pytest.mark.parametrize("case", ["anchor_scale_list"], indirect=True)
def test_every_level_has_its_own_anchor_scale(case: OfficialCase, folder: Path) -> None:
    model, _ = converted(checkpoint(case, folder, with_config=True))
    assert model.config.anchor_scale == (4.0, 4.0, 5.0, 5.0, 6.0)
    anchors = make_anchors_yxyx(model.config)
    begin = 0
    for scale, (height, width) in zip((4.0, 4.0, 5.0, 5.0, 6.0), model.config.feature_sizes().values(), strict=True):
        end = begin + height * width * 9
        own = make_anchors_yxyx(get_config("d0", image_size=128, anchor_scale=scale))
        assert torch.equal(anchors[begin:end], own[begin:end])
        begin = end


@pytest.mark.parametrize("case", ["nms_hard"], indirect=True)
def test_the_postprocessing_of_the_file_is_used(case: OfficialCase, folder: Path) -> None:
    model, _ = converted(checkpoint(case, folder, with_config=True))
    expected = Profile(
        "best_class", per_class=False, clip=True, iou_threshold=0.6, score_threshold=0.2, max_detections=20
    )
    assert Predictor(model).profile == expected
    assert Predictor(model, profile="serving").profile == PROFILES["serving"]
    (found,) = Predictor(model, score_threshold=0)(np.zeros((128, 128, 3), np.uint8))
    assert len(found) <= 20
    assert (found.scores > 0.2).all()


@pytest.mark.parametrize("case", ["label_map"], indirect=True)
def test_the_names_of_the_file_are_used(case: OfficialCase, folder: Path) -> None:
    model, _ = converted(checkpoint(case, folder, with_config=True))
    (found,) = Predictor(model, score_threshold=0)(np.zeros((128, 128, 3), np.uint8))
    assert set(found.names) <= {"a", "b", "c"}
    assert found.names
    assert found.names == ["?abc"[number] for number in found.category_ids.tolist()]
