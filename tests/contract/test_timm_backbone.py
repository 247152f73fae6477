"""Our backbone is timm's `tf_efficientnet_*`, so files are interchangeable: names, outputs, training, first weights."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import timm
import torch
from timm.models.efficientnet import efficientnet_init_weights
from torch import Tensor, nn

from effdet_torch.architecture.backbone import BACKBONE_TOP, BACKBONES, is_lite, timm_name
from effdet_torch.config import Activation
from effdet_torch.network.backbone import Backbone, initialise
from effdet_torch.network.layers import ACTIVATIONS, BATCH_NORM_EPS, BATCH_NORM_MOMENTUM

FEW = pytest.mark.parametrize("name", ["efficientnet-b0", "efficientnet-b3", "efficientnet-lite1"])


def timm_backbone(
    name: str, activation: Activation = "swish", drop_path_rate: float = 0.0, min_level: int = 3
) -> nn.Module:
    model: nn.Module = timm.create_model(
        timm_name(name),
        features_only=True,
        out_indices=tuple(range(min_level - 1, BACKBONE_TOP)),  # index l - 1 is level l
        act_layer=ACTIVATIONS[activation],
        bn_eps=BATCH_NORM_EPS,
        bn_momentum=BATCH_NORM_MOMENTUM,
        drop_path_rate=drop_path_rate,
    )
    return model


def twins(
    name: str, activation: Activation = "swish", drop_path_rate: float = 0.0, min_level: int = 3
) -> tuple[nn.Module, nn.Module]:
    """Return ours and timm's with the same weights and the same statistics, none of which is 0 or 1."""
    ours, theirs = (build(name, activation, drop_path_rate, min_level) for build in (Backbone, timm_backbone))
    torch.manual_seed(0)
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            for tensor in (module.weight.data, module.bias.data, module.running_mean, module.running_var):
                tensor.uniform_(0.5, 1.5)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    return ours, theirs


def seeded(run: Callable[[], list[Tensor]]) -> list[Tensor]:
    torch.manual_seed(1)
    return run()


def same(first: list[Tensor], second: list[Tensor]) -> bool:
    return len(first) == len(second) and all(map(torch.equal, first, second))


@pytest.mark.parametrize("name", BACKBONES)
def test_names_and_shapes_in_order(name: str) -> None:
    with torch.device("meta"):
        ours, theirs = Backbone(name).state_dict(), timm_backbone(name).state_dict()
        other = timm_backbone("efficientnet-b1" if name == "efficientnet-b0" else "efficientnet-b0").state_dict()
    shapes = [[(key, tensor.shape) for key, tensor in state.items()] for state in (ours, theirs, other)]
    assert shapes[0] == shapes[1]
    assert shapes[0] != shapes[2]  # negative control


@FEW
@pytest.mark.parametrize("size", [(64, 64), (65, 98)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_outputs_are_equal_bit_for_bit(name: str, size: tuple[int, int], dtype: torch.dtype) -> None:
    ours, theirs = (model.eval().to(dtype) for model in twins(name, "relu6" if is_lite(name) else "swish"))
    images = torch.randn(2, 3, *size, dtype=dtype)
    with torch.no_grad():
        assert same(ours(images), theirs(images))


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("name", ["efficientnet-b0", "efficientnet-lite0"])
def test_every_activation_and_level(name: str, activation: Activation) -> None:
    ours, theirs = (model.eval() for model in twins(name, activation, min_level=1))
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert same(ours(images), theirs(images))
        assert len(ours(images)) == BACKBONE_TOP


@FEW
def test_training_is_the_same(name: str) -> None:
    """Dropped paths (in the order of the random numbers), gradients, and what the batch norms learn."""
    ours, theirs = (model.train() for model in twins(name, drop_path_rate=0.5))
    images = torch.randn(4, 3, 64, 64)
    found, expected = (seeded(lambda model=model: model(images)) for model in (ours, theirs))
    assert same(found, expected)
    for features in (found, expected):
        torch.stack([level.square().mean() for level in features]).sum().backward()
    gradients = [[parameter.grad for parameter in model.parameters()] for model in (ours, theirs)]
    assert same(*gradients)
    assert same(*([*model.state_dict().values()] for model in (ours, theirs)))


@FEW
def test_first_weights_are_the_same(name: str) -> None:
    ours, theirs = Backbone(name), timm_backbone(name)
    for model, fill in ((ours, initialise), (theirs, efficientnet_init_weights)):
        torch.manual_seed(2)
        fill(model)
    assert same(*([*model.state_dict().values()] for model in (ours, theirs)))


@pytest.mark.parametrize(
    "change",
    [
        lambda model: setattr(model.bn1, "eps", 1e-5),
        lambda model: setattr(model.bn1, "act", nn.ReLU()),
        lambda model: setattr(model.blocks[1][1], "adds", False),
    ],
    ids=["epsilon", "activation", "residual"],
)
def test_another_computation_is_noticed(change: Callable[[nn.Module], None]) -> None:
    """Negative control."""
    ours, theirs = (model.eval() for model in twins("efficientnet-b0"))
    change(ours)
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert not same(ours(images), theirs(images))


@pytest.mark.parametrize(("momentum", "rate"), [(0.1, 0.5), (0.01, 0.25)])
def test_another_training_is_noticed(momentum: float, rate: float) -> None:
    """Negative control."""
    ours, (_, theirs) = Backbone("efficientnet-b0", drop_path_rate=rate), twins("efficientnet-b0", drop_path_rate=0.5)
    ours.load_state_dict(theirs.state_dict())
    for module in ours.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = momentum
    images = torch.randn(4, 3, 64, 64)
    for model in (ours, theirs):
        seeded(lambda model=model: model.train()(images))
    assert not same(*([*model.state_dict().values()] for model in (ours, theirs)))
