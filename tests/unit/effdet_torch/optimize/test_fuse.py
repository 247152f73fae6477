"""The fused network against the model it was made from; `effdet-verify` compares it with TensorFlow's."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from effdet_torch.errors import UsageError
from effdet_torch.network.checkpoint import create_model
from effdet_torch.network.model import EfficientDet
from effdet_torch.optimize.current import TensorState
from effdet_torch.optimize.fuse import FusedEfficientDet, fuse
from effdet_torch.optimize.layers import WidenedConv
from support.networks import alive, max_over_rms

EXACT = 1e-11  # random weights amplify roundings a thousand times more than trained ones do, see test_trained.py
SETTINGS: dict[str, dict[str, Any]] = {
    "d0": {},
    "lite0, sum": {"variant": "lite0"},
    "d6's fusion": {"fusion": "sum"},
    "attn": {"fusion": "attn"},
    "channel_attn": {"fusion": "channel_attn"},
    "channel_fastattn": {"fusion": "channel_fastattn"},
    "redundant biases": {"redundant_bias": True},
    "activation last": {"conv_bn_act_pattern": True},
    "dense convolutions": {"separable_conv": False},
    "pool first": {"conv_after_downsample": True},
    "resampling without batch norm": {"apply_bn_for_resampling": False},
    "residual heads": {"survival_prob": 0.8},
    "relu6": {"activation": "relu6"},
    "hswish": {"activation": "hswish"},
    "mish": {"activation": "mish"},
    "taps inside stages": {"backbone": "efficientnet-b1", "taps": ((2, 1), (4, 2), (6, 0))},
    "other levels": {"min_level": 2, "max_level": 6},
    "two kinds of heads": {"heads": ("object_detection", "segmentation"), "max_level": 5},
    "segmentation head": {"heads": ("segmentation",), "max_level": 5, "activation": "relu6"},
}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_outputs_are_equal(settings: dict[str, Any]) -> None:
    options = {
        "variant": "d0",
        "num_classes": 4,
        "image_size": (128, 128),
        "fpn_cells": 2,
        "head_repeats": 2,
        **settings,
    }
    model = alive(create_model(**options)).double()
    size = (128, 96) if model.config.segments else (130, 97)
    images = torch.randn(2, 3, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    with torch.inference_mode():
        expected = model(images)
        for widen in (True, False):
            assert max_over_rms(fuse(model, widen=widen)(images), expected) < EXACT
        assert max_over_rms(fuse(model).to(memory_format=torch.channels_last)(images), expected) < EXACT
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())


def test_float32_is_rounded_once() -> None:
    """Folded kernels are the float64 ones, rounded: not products of float32 factors."""
    model = alive(create_model("d0", num_classes=4, image_size=128))
    fused, exact = fuse(model), fuse(alive(create_model("d0", num_classes=4, image_size=128)).double())
    for (name, found), wanted in zip(fused.named_parameters(), exact.parameters(), strict=True):
        assert torch.equal(found, wanted.float()), name


@pytest.mark.parametrize("size", [(128, 128), (127, 128), (128, 127), (65, 99), (66, 192)])
def test_every_parity_of_the_size(size: tuple[int, int]) -> None:
    model = alive(create_model("d0", num_classes=1, image_size=128, fpn_cells=2, head_repeats=1)).double()
    images = torch.randn(1, 3, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        assert max_over_rms(fuse(model)(images), model(images)) < EXACT


def break_padding(fused: FusedEfficientDet) -> None:
    conv = next(module for module in fused.modules() if isinstance(module, WidenedConv))
    conv.weight.data.copy_(conv.weight.roll(-1, dims=3))


def break_weight(fused: FusedEfficientDet) -> None:
    fused.get_buffer("fpn.cell.1.fnode.3.combine.weight0").mul_(1.001)


def break_level(fused: FusedEfficientDet) -> None:
    norms = fused.class_net.bn_rep[0]
    norms[0], norms[1] = norms[1], norms[0]


@pytest.mark.parametrize("plant", [break_padding, break_weight, break_level])
def test_a_wrong_fusion_shows(plant: Callable[[FusedEfficientDet], None]) -> None:
    model = alive(create_model("d0", num_classes=1, image_size=128, fpn_cells=2, head_repeats=1)).double()
    images = torch.randn(1, 3, 128, 128, dtype=torch.float64)
    fused = fuse(model)
    with torch.inference_mode():
        plant(fused)
        assert max_over_rms(fused(images), model(images)) > 1e3 * EXACT


def test_inner_outputs_keep_their_names() -> None:
    model = alive(create_model("d0", num_classes=2, image_size=64)).double()
    names = ["backbone.bn1", "backbone.blocks.1.0", "fpn.resample.3", "fpn.cell.2.fnode.7", "class_net.bn_rep.2.4"]
    images = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    found, expected = (recorded(network, names, images) for network in (fuse(model), model))
    for name, one, other in zip(names, found, expected, strict=True):
        assert max_over_rms(([one], []), ([other], [])) < EXACT, name


def recorded(network: nn.Module, names: Iterable[str], images: Tensor) -> list[Tensor]:
    """Return what modules computed; nothing may overwrite it later, so no copies are made."""
    outputs: list[Tensor] = []
    hooks = [network.get_submodule(n).register_forward_hook(lambda *call: outputs.append(call[2])) for n in names]
    with torch.inference_mode():
        network(images)
    for hook in hooks:
        hook.remove()
    return outputs


def test_weights_that_do_not_change_are_shared() -> None:
    model = create_model("d0", num_classes=90)
    owned = {parameter.data_ptr() for parameter in model.parameters()}
    shared = [parameter for parameter in fuse(model).parameters() if parameter.data_ptr() in owned]
    assert sum(parameter.numel() for parameter in shared) > 200_000
    assert not any(parameter.requires_grad for parameter in shared)
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_the_layout_of_a_fused_network_is_its_own() -> None:
    model = create_model("d0", num_classes=90)
    fuse(model).to(dtype=torch.float16, memory_format=torch.channels_last)
    assert all(parameter.dtype == torch.float32 and parameter.is_contiguous() for parameter in model.parameters())


def test_statistics_are_used_in_training_mode_too() -> None:
    model = alive(create_model("d0", num_classes=1, image_size=64, survival_prob=0.8)).double()
    images = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    with torch.inference_mode():
        expected = model(images)
        assert max_over_rms(fuse(model.train())(images), expected) < EXACT
    assert all(module.training for module in model.modules())


def test_what_is_not_a_model() -> None:
    with pytest.raises(UsageError, match="model is of type Linear; expected an EfficientDet"):
        fuse(nn.Linear(1, 1))  # type: ignore[arg-type]


# Whether a fused network still belongs to its model


def step(model: EfficientDet) -> None:
    with torch.no_grad():
        model.get_parameter("class_net.predict.conv_pw.bias").add_(1)


def replace(model: EfficientDet) -> None:
    model.class_net.predict.conv_pw.bias = nn.Parameter(model.class_net.predict.conv_pw.bias.detach().clone())


def load(model: EfficientDet) -> None:
    model.load_state_dict(model.state_dict())


def statistics(model: EfficientDet) -> None:
    model.train()(torch.zeros(2, 3, 64, 64))


def swap(model: EfficientDet) -> None:
    model.class_net.predict = create_model("d0", num_classes=1, image_size=64).class_net.predict


@pytest.mark.parametrize("change", [step, replace, load, statistics, swap])
def test_a_changed_model_is_noticed(change: Callable[[EfficientDet], None]) -> None:
    model = create_model("d0", num_classes=1, image_size=64)
    state = TensorState(model)
    model.eval()(torch.zeros(1, 3, 64, 64))
    assert state.is_current()
    change(model)
    assert not state.is_current()
