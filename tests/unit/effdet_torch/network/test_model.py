"""The whole model: shapes, sizes, hooks, and the ways PyTorch can run it."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from effdet_torch import create_model, get_config
from effdet_torch.config import VARIANTS
from effdet_torch.errors import ConfigError
from effdet_torch.network.model import EfficientDet
from support.coco_samples import small_model

SMALL: dict[str, Any] = {"fpn_cells": 1, "head_repeats": 1, "num_classes": 3}
MILLION_PARAMETERS = (3.9, 6.6, 8.1, 12.0, 20.7, 33.7, 51.9, 51.9, 77.1, 3.2, 4.2, 5.3, 8.4, 9.3, 15.1)


def build_on_meta(variant: str, **overrides: Any) -> EfficientDet:
    with torch.device("meta"):
        return create_model(variant, **overrides).eval()


def flat(outputs: tuple[list[Tensor], list[Tensor]]) -> list[Tensor]:
    return [*outputs[0], *outputs[1]]


@pytest.fixture(scope="module", params=["d0", "lite0"])
def model(request: pytest.FixtureRequest) -> EfficientDet:
    """A small model whose running statistics keep activations near 1, as in a trained one."""
    lite = {"backbone": "efficientnet-lite0", "activation": "relu6", "fusion": "sum"}
    return small_model(image_size=(128, 128), max_level=7, **(lite if request.param == "lite0" else {}))


@pytest.mark.parametrize(("variant", "expected"), [*zip(VARIANTS, MILLION_PARAMETERS, strict=True)])
def test_every_variant_has_its_parameters(variant: str, expected: float) -> None:
    model = build_on_meta(variant, redundant_bias=True)
    millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    assert millions == pytest.approx(expected, abs=0.051)


@pytest.mark.parametrize(
    ("variant", "size"),
    [("d0", (512, 512)), ("d7x", (1536, 1536)), *(("lite0", size) for size in ((384, 640), (321, 517), (64, 64)))],
)
def test_any_size_halves_rounding_up(variant: str, size: tuple[int, int]) -> None:
    model = build_on_meta(variant, image_size=size)
    levels = range(3, 9 if variant == "d7x" else 8)
    sizes = [tuple(math.ceil(side / 2**level) for side in size) for level in levels]
    assert list(model.config.feature_sizes().values()) == sizes
    class_logits, box_deltas = model(torch.empty(2, 3, *size, device="meta"))
    assert [tuple(level.shape) for level in class_logits] == [(2, 810, *level) for level in sizes]
    assert [tuple(level.shape) for level in box_deltas] == [(2, 36, *level) for level in sizes]


def test_too_small_images_are_refused_early_and_late() -> None:
    with pytest.raises(ConfigError, match=r"512x64 .* too small for levels 3 to 7"):
        build_on_meta("d0", image_size=(64, 512))
    model = build_on_meta("lite0", **SMALL)
    with pytest.raises(ConfigError, match=r"64x512 .* at least 65 pixels per side"):
        model(torch.empty(1, 3, 512, 64, device="meta"))


def test_create_model_takes_classes_size_and_other_fields() -> None:
    model = build_on_meta("lite0", num_classes=3, image_size=256, aspect_ratios=(1.0, 2.0), fpn_cells=1, head_repeats=2)
    assert model.config == get_config(
        "lite0", num_classes=3, image_size=(256, 256), aspect_ratios=(1.0, 2.0), fpn_cells=1, head_repeats=2
    )
    assert model.class_net.predict.conv_pw.out_channels == 3 * 2 * 3
    assert model.metadata == {}
    with pytest.raises(ConfigError, match="unknown model setting"):
        create_model("lite0", colour=1)


def test_drop_path_changes_training_only_when_asked() -> None:
    torch.manual_seed(0)
    images = torch.randn(2, 3, 128, 128)
    for rate, repeatable in ((0.0, True), (0.5, False)):
        model = create_model("lite0", drop_path_rate=rate, **SMALL).train()
        with torch.no_grad():
            first, second = flat(model(images)), flat(model(images))
        assert all(map(torch.equal, first, second)) == repeatable


def test_documented_modules_give_the_layers_unharmed(model: EfficientDet) -> None:
    """A hook must see what the next layer got: nothing may be overwritten in place afterwards."""
    names = ["backbone.bn1", "fpn.resample.3", "fpn.resample.4"]
    names += [f"backbone.blocks.{block.stage}.{block.block}" for block in model.config.blocks]
    names += [f"fpn.cell.{node.cell}.fnode.{node.index}" for node in model.config.nodes]
    names += [f"{head}.bn_rep.0.{level}" for head in ("class_net", "box_net") for level in range(5)]
    seen: dict[str, list[tuple[Tensor, Tensor]]] = {}
    handles = [
        model.get_submodule(name).register_forward_hook(
            lambda _module, _inputs, output, name=name: seen.setdefault(name, []).append((output, output.clone()))
        )
        for name in [*names, "class_net.predict", "box_net.predict"]
    ]
    with torch.no_grad():
        class_logits, box_deltas = model(torch.randn(1, 3, 128, 128))
    for handle in handles:
        handle.remove()
    assert {name: len(seen[name]) for name in names} == dict.fromkeys(names, 1)
    assert all(torch.equal(output, copy) for outputs in seen.values() for output, copy in outputs)
    for head, outputs in (("class_net", class_logits), ("box_net", box_deltas)):
        assert all(torch.equal(a, b) for (a, _), b in zip(seen[f"{head}.predict"], outputs, strict=True))


def test_in_place_change_would_be_noticed(model: EfficientDet) -> None:
    seen: list[tuple[Tensor, Tensor]] = []
    bn = model.backbone.get_submodule("blocks.0.0.conv_dw")  # an in-place activation follows its batch norm
    handle = bn.register_forward_hook(lambda _module, _inputs, output: seen.append((output.mul_(2), output / 2)))
    with torch.no_grad():
        model(torch.randn(1, 3, 128, 128))
    handle.remove()
    assert not torch.equal(*seen[0])


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning", "ignore:.*torch.jit:DeprecationWarning")
def test_torchscript_computes_the_same(model: EfficientDet) -> None:
    scripted = torch.jit.script(model)
    images = torch.randn(1, 3, 96, 133)
    with torch.no_grad():
        assert all(map(torch.equal, flat(scripted(images)), flat(model(images))))
        with pytest.raises(torch.jit.Error, match="too small for levels 3 to 7"):
            scripted(torch.randn(1, 3, 64, 512))


@pytest.mark.parametrize("model", ["d0"], indirect=True)
def test_export_computes_the_same(model: EfficientDet) -> None:
    images = torch.randn(1, 3, 96, 133)
    exported = torch.export.export(model, (images,)).module()
    with torch.no_grad():
        for found, expected in zip(flat(exported(images)), flat(model(images)), strict=True):
            torch.testing.assert_close(found, expected)


def test_other_layouts_and_types_agree(model: EfficientDet) -> None:
    images = torch.randn(1, 3, 128, 160)
    with torch.no_grad():
        expected = flat(model(images))
        channels_last = flat(model(images.to(memory_format=torch.channels_last)))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            autocast = flat(model(images))
        double = flat(model.double()(images.double()))
        model.float()
    for one, other, half, precise in zip(expected, channels_last, autocast, double, strict=True):
        torch.testing.assert_close(other, one, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(one.double(), precise, atol=1e-4, rtol=1e-4)
        assert half.dtype == torch.bfloat16
        assert torch.corrcoef(torch.stack([half.float().flatten(), one.flatten()]))[0, 1] > 0.9  # bfloat16 has 8 bits


def test_training_reaches_every_parameter() -> None:
    model = create_model("d0", redundant_bias=True, **SMALL).train()
    outputs = flat(model(torch.randn(2, 3, 128, 128)))
    torch.autograd.backward(torch.stack([output.square().sum() for output in outputs]).sum())
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []
