"""The built-in reference on official configurations: what it reads from `config.yaml`, and what it computes then."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from converter.conversion import convert_checkpoint, prepare
from converter.locate import open_checkpoint
from support.golden import error_over_rms
from support.hparams import misread
from support.official_cases import OfficialCase, case_folders
from support.sources import small_config
from support.variable_shapes import random_variables
from tests.support.reference import config_hparams
from verify.errors import ReferenceModelError
from verify.reference.base import Tap
from verify.reference.layers import ACTIVATIONS
from verify.reference.network import TensorFlowReference
from verify.reference.official.config_file import read_config_file
from verify.reference.official.hparams import Hparams, read_hparams
from verify.reference.official.values import FpnNode
from verify.seeded import write_seeded_checkpoint
from verify.subjects.references import official_hparams
from verify.verification import Settings, verify_model

TENSORFLOW = pytest.importorskip("tensorflow")

# The official code's float32 and ours differ by rounding: measured 1e-6 to 7e-6 of rms.
TOLERANCE = 1e-5
WRONG = 1e-2

COMPUTED = (
    *("act_hswish", "act_relu", "act_relu6", "act_silu", "anchor_scale_list", "base", "conv_after_down"),
    *("conv_bn_act", "conv_bn_act_sum", "d0_backbone_lite0", "fpn_filters_eq_p5", "fpn_qufpn", "fpncfg_attn"),
    *(
        "fpncfg_fewer",
        "fpncfg_same",
        "fpncfg_wm_sum_conflict",
        "full_conv",
        "heads_both",
        "heads_seg_only",
        "label_map",
        "max_level5",
    ),
    *("min_level2", "nms_hard", "no_bn_resample", "scale_range", "survival_b0", "wm_attn", "wm_channel_fastattn"),
)
REFUSED = {
    "bb_fused": "backbone_config changes fused_conv of stage 0",
    "bb_kernel": "backbone_config changes kernel_size of stage 3",
    "bb_superpixel": "backbone_config changes super_pixel of stage 0",
}


@pytest.fixture
def case(request: pytest.FixtureRequest, shared: Path, seeded: ModuleType) -> OfficialCase:
    return OfficialCase(case_folders(shared)[request.param], seeded)


def error(case: OfficialCase, passed: Mapping[str, Any], view: str = "ema") -> float:
    hparams = read_hparams(read_config_file(case.config_file), passed)
    return case.error(TensorFlowReference(hparams, case.variables(view)).outputs(case.images))


@pytest.mark.parametrize("case", COMPUTED, indirect=True)
def test_equals_official_code(case: OfficialCase) -> None:
    assert error(case, {}) <= TOLERANCE


@pytest.mark.parametrize("case", REFUSED, indirect=True)
def test_what_is_not_computed_is_refused_by_name(case: OfficialCase) -> None:
    with pytest.raises(ReferenceModelError, match=REFUSED[case.folder.name]):
        read_hparams(read_config_file(case.config_file))


def test_no_case_is_left_out(shared: Path) -> None:
    assert case_folders(shared).keys() == {*COMPUTED, *REFUSED}


@pytest.mark.parametrize(
    ("case", "passed"),
    [
        ("act_hswish", {"act_type": "swish"}),
        ("act_relu", {"act_type": "relu6"}),
        ("act_relu6", {"act_type": "relu"}),
        ("act_silu", {"act_type": "mish"}),
        ("base", {"survival_prob": 0.8}),
        ("base", {"conv_after_downsample": True}),
        ("base", {"fpn_weight_method": "attn"}),
        ("conv_after_down", {"conv_after_downsample": False}),
        ("d0_backbone_lite0", {"act_type": "relu6"}),
        ("fpn_qufpn", {"fpn_name": None}),
        ("fpn_qufpn", {"fpn_weight_method": "sum"}),
        ("fpncfg_attn", {"fpn_config.weight_method": "fastattn"}),
        ("survival_b0", {"survival_prob": None}),
        ("wm_attn", {"fpn_weight_method": None}),
        ("wm_channel_fastattn", {"fpn_weight_method": "channel_attn"}),
    ],
    indirect=["case"],
)
def test_another_setting_shows(case: OfficialCase, passed: Mapping[str, Any]) -> None:
    """No variable is missing: every one of these could be a silent mistake."""
    assert error(case, passed) > WRONG


def test_the_other_copy_shows(shared: Path, seeded: ModuleType) -> None:
    assert error(OfficialCase(case_folders(shared)["base"], seeded), {}, "raw") > WRONG


@pytest.mark.parametrize(
    ("case", "passed", "words"),
    [
        ("conv_bn_act", {"conv_bn_act_pattern": False}, "op_after_combine5/conv/bias is missing"),
        ("no_bn_resample", {"apply_bn_for_resampling": True}, "resample_p6/bn/gamma is missing"),
        ("full_conv", {"separable_conv": True}, "conv/depthwise_kernel is missing"),
        ("fpncfg_wm_sum_conflict", {"fpn_config": None}, "fnode0/WSM is missing"),
        ("max_level5", {"max_level": 6}, "resample_p6/conv2d/kernel is missing"),
        ("wm_channel_fastattn", {"fpn_weight_method": "fastattn"}, r"fnode0/WSM has shape \(32,\)"),
        ("wm_attn", {"fpn_weight_method": "channel_attn"}, r"fnode0/WSM has shape \(\)"),
        ("base", {"num_classes": 4}, "class-predict/bias has shape"),
    ],
    indirect=["case"],
)
def test_a_setting_that_the_variables_contradict(case: OfficialCase, passed: Mapping[str, Any], words: str) -> None:
    with pytest.raises(ReferenceModelError, match=words):
        error(case, passed)


def _sigmoid(x: NDArray[Any]) -> NDArray[Any]:
    y: NDArray[Any] = 1 / (1 + np.exp(-x))
    return y


FORMULAS = {
    "swish": lambda x: x * _sigmoid(x),
    "silu": lambda x: x * _sigmoid(x),
    "swish_native": lambda x: x * _sigmoid(x),
    "relu": lambda x: np.maximum(x, 0),
    "relu6": lambda x: np.clip(x, 0, 6),
    "hswish": lambda x: x * np.clip(x + 3, 0, 6) / 6,
    "mish": lambda x: x * np.tanh(np.log(1 + np.exp(x))),
}


def test_activations_are_their_formulas() -> None:
    assert FORMULAS.keys() == ACTIVATIONS.keys()
    x = np.linspace(-9, 9, 181)
    for name, activate in ACTIVATIONS.items():
        np.testing.assert_allclose(activate(TENSORFLOW, TENSORFLOW.constant(x)), FORMULAS[name](x), atol=1e-14)


CONFIG = small_config(head_repeats=3)


def taps(hparams: Hparams, variables: Mapping[str, NDArray[Any]], side: int = 64) -> list[Tap]:
    images = np.random.default_rng(0).normal(size=(1, side, side, 3))
    return list(TensorFlowReference(hparams, variables, "float64").taps(images))


@pytest.mark.parametrize("method", ["channel_fastattn", "channel_attn"])
def test_weights_for_every_channel(method: str) -> None:
    draw = np.random.default_rng(1).normal
    variables = {
        name: draw(size=8).astype(np.float32) if "/WSM" in name else value
        for name, value in random_variables(CONFIG).items()
    }
    scope = "fpn_cells/cell_0/fnode2"
    fuse = next(
        tap
        for tap in taps(replace(config_hparams(CONFIG), fpn_weight_method=method), variables)
        if tap.scope == f"{scope}/fuse"
    )
    weights = np.array([variables[f"{scope}/WSM{suffix}"] for suffix in ("", "_1", "_2")], np.float64)
    weights = np.maximum(weights, 0) if method == "channel_fastattn" else np.exp(weights)
    weights /= weights.sum(axis=0) + (1e-4 if method == "channel_fastattn" else 0)
    assert error_over_rms(fuse.output, sum(x * w for x, w in zip(fuse.inputs, weights, strict=True))) < 1e-13


def _pool(x: NDArray[Any], stride: int) -> NDArray[Any]:
    """Max pool (1, H, W, C) with a window of stride + 1 and TensorFlow's SAME padding, by its definition."""
    out = -(-x.shape[1] // stride)
    before = max((out - 1) * stride + stride + 1 - x.shape[1], 0) // 2
    starts = [index * stride - before for index in range(out)]
    spans = [slice(max(start, 0), start + stride + 1) for start in starts]
    y: NDArray[Any] = np.array([[x[0, rows, columns].max(axis=(0, 1)) for columns in spans] for rows in spans])[None]
    return y


class AnyNodes(dict[str, NDArray[Any]]):
    """Variables of a model, and of any node of a cell, drawn when asked for."""

    def __contains__(self, name: object) -> bool:
        return super().__contains__(name) or str(name).startswith("fpn_cells/")

    def __missing__(self, name: str) -> NDArray[Any]:
        *_, part, _, leaf = name.split("/")
        width = (40, 112, 320, 8)[min(3, int(part.split("_")[2]))] if part.startswith("resample") else 8
        shapes = {"kernel": (1, 1, width, 8), "pointwise_kernel": (1, 1, 8, 8), "depthwise_kernel": (3, 3, 8, 1)}
        return np.random.default_rng(len(name)).uniform(0.1, 0.5, shapes.get(leaf, (8,))).astype(np.float32)


@pytest.mark.parametrize(("side", "stride"), [(64, 4), (72, 3), (100, 4)])  # 8 to 2, 9 to 3, 13 to 4 pixels
def test_any_nodes_and_any_factor(side: int, stride: int) -> None:
    """Nodes that skip levels resample by more than two in one step; a node may have one input, or one twice."""
    nodes = (FpnNode(5, (0,)), FpnNode(4, (1, 3, 2, 0)), FpnNode(3, (4, 0, 0)), FpnNode(5, (3, 5)), FpnNode(3, (3, 5)))
    hparams = replace(config_hparams(CONFIG), fpn_config=nodes, fpn_weight_method="sum")
    layers = taps(hparams, AnyNodes(random_variables(CONFIG)), side)
    found, cell = {tap.scope: tap for tap in layers}, "fpn_cells/cell_0"
    pooled = found[f"{cell}/fnode0/resample_0_0_3"].output
    np.testing.assert_array_equal(pooled, _pool(found[f"{cell}/fnode0/resample_0_0_3/bn"].output, stride))
    assert pooled.shape[1] == -(-side // 32)
    up = found[f"{cell}/fnode4/resample_0_3_7"]
    rows = np.arange(-(-side // 8)) * up.inputs[0].shape[1] // -(-side // 8)
    np.testing.assert_array_equal(up.output, up.inputs[0][:, rows][:, :, rows])
    fused = {index: found[f"{cell}/fnode{index}/fuse"] for index in range(5)}
    assert [len(fused[index].inputs) for index in fused] == [1, 4, 3, 2, 2]
    np.testing.assert_allclose(fused[2].output, sum(fused[2].inputs), rtol=1e-15)
    inputs = {tap.level: tap.inputs[0] for tap in layers if tap.scope == "class_net/class-0"}
    for level, last in {3: 4, 4: 1, 5: 3}.items():  # the last node on every level
        np.testing.assert_array_equal(inputs[level], found[f"{cell}/fnode{last}"].output)


def test_heads_of_a_model_with_stochastic_depth_add_their_input() -> None:
    variables = random_variables(CONFIG)
    found = taps(replace(config_hparams(CONFIG), survival_prob=True), variables)
    keys = [tap.key for tap in found]
    added = [tap for tap in found if tap.scope.endswith("-add")]
    heads, levels = ("class", "box"), CONFIG.levels
    assert {tap.key for tap in added} == {(f"{h}_net/{h}-{r}-add", n) for h in heads for r in (1, 2) for n in levels}
    for tap in added:
        head, repeat = tap.scope.split("/")[1].split("-")[:2]
        before = keys.index((f"{head}_net/{head}-{repeat}-bn-{tap.level}-act", None))
        assert found[before + 1] is tap
        activated, original = tap.inputs
        np.testing.assert_array_equal(activated, found[before].output)
        np.testing.assert_array_equal(original, found[before - 2].inputs[0])
        np.testing.assert_array_equal(tap.output, activated + original)


def test_layers_of_a_node_that_activates_last() -> None:
    variables = {name: value for name, value in random_variables(CONFIG).items() if not name.endswith("/conv/bias")}
    found = taps(replace(config_hparams(CONFIG), conv_bn_act_pattern=True), variables)
    node = "fpn_cells/cell_0/fnode0"
    combine = f"{node}/op_after_combine3"
    order = [f"{node}/fuse", *(f"{combine}{leaf}" for leaf in ("/conv", "/bn", "/bn-act", "")), node]
    ends = [tap for tap in found if tap.scope in order]
    assert [tap.scope for tap in ends] == order
    fuse, conv, norm, activated, combined, last = ends
    assert conv.redundant_bias is norm.redundant_bias is None
    np.testing.assert_array_equal(conv.inputs[0], fuse.output)
    assert error_over_rms(activated.output, FORMULAS["swish"](norm.output)) < 1e-14
    for tap in (combined, last):
        np.testing.assert_array_equal(tap.output, activated.output)


CONFIG_YAML = "name: efficientdet-d0\nact_type: relu6\nimage_size: !!python/tuple [64, 96]\nmax_level: 5\n"


def test_a_misreading_of_the_converter_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The converter takes every activation for swish; the reference reads the file itself."""
    (tmp_path / "config.yaml").write_text(CONFIG_YAML)
    settings = Settings(image_size=(64, 64), dtypes=("float64",), modes=("isolated",))
    with open_checkpoint(write_seeded_checkpoint(small_config(activation="relu6"), tmp_path)) as source:
        convert_checkpoint(prepare(source), tmp_path / "right.pth")
        assert verify_model(tmp_path / "right.pth", source, settings).passed
        misread(monkeypatch, "act_type", "swish")
        convert_checkpoint(prepare(source), tmp_path / "wrong.pth")
        assert not verify_model(tmp_path / "wrong.pth", source, settings).passed


def test_what_counts_for_a_checkpoint_in_an_archive(tmp_path: Path) -> None:
    (tmp_path / "archive").mkdir()
    (tmp_path / "config.yaml").write_text(CONFIG_YAML)
    with open_checkpoint(write_seeded_checkpoint(small_config(), tmp_path / "archive")) as source:
        preparation = prepare(source)
        found = official_hparams(preparation, {"image_size": "640x384"})
        assert found == replace(config_hparams(small_config()), act_type="relu6", image_size=(384, 640))
        assert official_hparams(preparation, {}).image_size == (64, 96)
        (tmp_path / "config.yaml").unlink()
        assert official_hparams(preparation, {}) == config_hparams(small_config())
