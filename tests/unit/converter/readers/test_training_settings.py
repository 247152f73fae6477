"""What a file of the effdet package's training says of its settings, compared with the package itself."""

from __future__ import annotations

import argparse
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from converter.conversion import prepare
from converter.errors import UnsupportedSourceError
from converter.locate import open_checkpoint
from converter.readers.pytorch.effdet_settings import COLOURS, settings_of_name, training_hparams
from converter.readers.pytorch.state_dict import NO_BIASES, NO_METADATA
from converter.source import VariableSource
from effdet_torch.config import VARIANTS, get_config
from support.sources import plan_of

State = dict[str, Any]
PACKAGE_NAMES = [f"tf_efficientdet_{variant}" for variant in VARIANTS] + [f"tf_efficientdet_d{n}_ap" for n in range(6)]
OWN_RATIOS = [[1.0, 1.0], [1.4, 0.7], [0.7, 1.4]]


def state(**overrides: Any) -> State:
    """The keys and shapes of a d0, whose tensors all repeat one value."""
    targets = plan_of(get_config("d0", **overrides)).targets
    return {key: torch.zeros(()).expand(entry.target_shape) for key, entry in targets.items()}


def opened(folder: Path, content: Any) -> VariableSource:
    torch.save(content, folder / "a.pth")
    return open_checkpoint(folder / "a.pth")


@pytest.fixture(scope="module")
def d0() -> State:
    return state()


@pytest.mark.parametrize("name", PACKAGE_NAMES)
def test_names_stand_for_the_settings_of_the_package(effdet: ModuleType, name: str) -> None:
    config, found = effdet.get_efficientdet_config(name), settings_of_name(name)
    assert found.pop("image_size") == list(config.image_size)
    assert [tuple(pair) for pair in found.pop("aspect_ratios")] == [tuple(pair) for pair in config.aspect_ratios]
    assert (found.pop("fpn_name"), config.fpn_name or "bifpn_fa") == (config.fpn_name or "bifpn_fa",) * 2
    for setting in (*COLOURS, "fill_color"):
        expected = config.get(setting)
        assert found.pop(setting, None) == (expected if expected in (None, 0) else list(expected))
    assert found == {setting: config[setting] for setting in found}
    assert {"name", "backbone_name", "num_scales", "anchor_scale", "act_type"} == set(found)


def test_colours_are_those_of_the_package(effdet: ModuleType) -> None:
    from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

    assert COLOURS == {"mean": IMAGENET_DEFAULT_MEAN, "std": IMAGENET_DEFAULT_STD}
    assert training_hparams(settings_of_name("tf_efficientdet_d3"))["mean_rgb"] == [123.675, 116.28, 103.53]
    assert training_hparams(settings_of_name("tf_efficientdet_d3"))["stddev_rgb"] == [58.395, 57.12, 57.375]


def given(source: VariableSource) -> dict[str, Any]:
    (found,) = source.facts.given
    assert found[0].startswith("the training of effdet (arch ")
    return dict(found[1])


def test_a_training_checkpoint_has_the_settings_of_its_model(tmp_path: Path, d0: State) -> None:
    with opened(tmp_path, {"state_dict": d0, "arch": "tf_efficientdet_d0"}) as source:
        hparams = given(source)
        assert hparams["aspect_ratios"] == OWN_RATIOS
        assert (hparams["name"], hparams["image_size"], hparams["fpn_weight_method"]) == (
            "efficientdet-d0",
            [512, 512],
            "fastattn",
        )
        assert not {NO_METADATA, NO_BIASES} & set(source.facts.notes)
        assert any("aspect_ratios [[1.0, 1.0], [1.4, 0.7], [0.7, 1.4]]" in note for note in source.facts.notes)


def test_a_bare_state_dict_has_none(tmp_path: Path, d0: State) -> None:
    """The control; other tools call what they like `arch`."""
    for content in (d0, {"state_dict": d0}, {"state_dict": d0, "arch": "d0"}, {"state_dict": d0, "arch": [1]}):
        with opened(tmp_path, content) as source:
            assert source.facts.given == ()
            assert {NO_METADATA, NO_BIASES} <= set(source.facts.notes)


def test_a_bench_without_the_name_of_its_model_has_the_ratios(tmp_path: Path, d0: State) -> None:
    with opened(tmp_path, {"state_dict": d0, "arch": "detbenchtrain"}) as source:
        assert given(source) == {"aspect_ratios": OWN_RATIOS}
        assert {NO_METADATA, NO_BIASES} <= set(source.facts.notes)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("tf_efficientdet_d0_ap", {"mean_rgb": 0.0, "stddev_rgb": 1.0, "scale_range": True, "name": "efficientdet-d0"}),
        ("tf_efficientdet_lite3x", {"mean_rgb": [127.5] * 3, "stddev_rgb": [127.5] * 3, "act_type": "relu6"}),
        ("tf_efficientdet_d7", {"anchor_scale": 5.0, "fpn_weight_method": "sum", "image_size": [1536, 1536]}),
    ],
)
def test_hyperparameters_of_other_models(name: str, expected: dict[str, Any]) -> None:
    hparams = training_hparams(settings_of_name(name))
    assert {key: hparams[key] for key in expected} == expected


def test_options_of_the_training_script_replace_the_models(tmp_path: Path, d0: State) -> None:
    args = argparse.Namespace(mean=[0.5], std=[0.1, 0.2, 0.4], model="tf_efficientdet_d0")
    with opened(tmp_path, {"state_dict": d0, "arch": "tf_efficientdet_d0", "args": args}) as source:
        assert (given(source)["mean_rgb"], given(source)["stddev_rgb"]) == ([127.5] * 3, [25.5, 51.0, 102.0])
    args = argparse.Namespace(mean=None, std="any", model="tf_efficientdet_d0")
    with opened(tmp_path, {"state_dict": d0, "arch": "tf_efficientdet_d0", "args": args}) as source:
        assert given(source)["mean_rgb"] == [123.675, 116.28, 103.53]


def test_tensors_decide_about_the_fusion(tmp_path: Path) -> None:
    with opened(tmp_path, {"state_dict": state(fusion="sum"), "arch": "tf_efficientdet_d0"}) as source:
        assert "fpn_weight_method" not in given(source)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("efficientdet_d4", "belongs to a model with efficientnet-b4, but the tensors are those of efficientnet-b0"),
        (
            "efficientdet_w0",
            "efficientdet_w0 of the effdet package is not supported: it takes its features from inside",
        ),
        ("resdet50", "resdet50 of the effdet package is not supported: its backbone ResNet-50"),
    ],
)
def test_the_name_of_another_network_is_refused(tmp_path: Path, d0: State, name: str, words: str) -> None:
    with pytest.raises(UnsupportedSourceError, match=rf"a\.pth: .*{words}"):
        opened(tmp_path, {"state_dict": d0, "arch": name})


CHANGES: dict[str, tuple[dict[str, Any], str]] = {
    "order of steps": ({"conv_bn_relu_pattern": True}, "conv_bn_relu_pattern True"),
    "epsilon": ({"norm_kwargs": {"eps": 1e-5}}, "batch norm epsilon 1e-05"),
    "pooling": ({"downsample_type": "bilinear"}, "resampling bilinear and nearest"),
    "padding": ({"pad_type": "reflect"}, "pad_type 'reflect'"),
    "backbone": ({"backbone_name": "resnet50"}, "backbone resnet50"),
    "backbone of TensorFlow's": ({"backbone_name": "tf_efficientnet_es"}, "backbone tf_efficientnet_es"),
    "features": ({"backbone_args": {"feature_location": "depthwise"}}, "backbone_args feature_location"),
    "activation of the heads": ({"head_act_type": "mish"}, "head_act_type 'mish'"),
    "activation": ({"act_type": "relu6"}, "act_type 'relu6' beside the backbone's 'swish'"),
    "pyramid": ({"fpn_name": "pan_fa"}, "fpn_name 'pan_fa'"),
    "model": ({"name": "efficientdet_w0"}, "efficientdet_w0 of the effdet package is not supported"),
}


@pytest.mark.parametrize("kind", CHANGES)
def test_changed_settings_are_refused_by_name(kind: str) -> None:
    changes, words = CHANGES[kind]
    settings = settings_of_name("tf_efficientdet_d0")
    assert training_hparams(settings)["act_type"] == "swish"  # the control
    with pytest.raises(UnsupportedSourceError, match=words):
        training_hparams(settings | changes)


def test_activations_of_both_parts() -> None:
    settings = settings_of_name("tf_efficientdet_d0") | {"act_type": "silu", "backbone_args": {"act_layer": "swish"}}
    assert training_hparams(settings)["act_type"] == "swish"
    both = {"act_type": "relu6", "backbone_args": {"act_layer": "relu6"}}
    assert training_hparams(settings | both)["act_type"] == "relu6"


def test_the_result_has_these_anchors(tmp_path: Path, d0: State) -> None:
    with opened(tmp_path, {"state_dict": d0, "arch": "tf_efficientdet_d0"}) as source:
        settings = prepare(source).settings
        assert settings.config.aspect_ratios == ((1.0, 1.0), (1.4, 0.7), (0.7, 1.4))
        assert settings.origins["aspect_ratios"] == "the training of effdet (arch 'tf_efficientdet_d0')"
