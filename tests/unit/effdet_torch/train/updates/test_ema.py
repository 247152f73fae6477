from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from effdet_torch.errors import ConfigError
from effdet_torch.train.updates.ema import Averages


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).double()


def change(net: nn.Module) -> None:
    with torch.no_grad():
        for tensor in (*net.parameters(), *net.buffers()):
            tensor.add_(1)


def values(net: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in net.state_dict().items()}


def test_parameters_and_statistics_are_averaged_and_counters_are_not() -> None:
    net = model()
    averages, start = Averages(net, 0.9998), values(net)
    assert averages.values.keys() == start.keys() - {"1.num_batches_tracked"}
    change(net)
    averages.update(net, 1)
    for name, average in averages.values.items():
        torch.testing.assert_close(average, start[name] + 9 / 11)


@pytest.mark.parametrize(("step", "decay"), [(1, 2 / 11), (90, 91 / 100), (100_000, 0.9998)])
def test_warm_up(step: int, decay: float) -> None:
    assert Averages(model(), 0.9998).decay_at(step) == pytest.approx(decay)


def test_swapped_and_back() -> None:
    net = model()
    averages, start = Averages(net, 0.9), values(net)
    change(net)
    changed, parameter = values(net), net[0].weight  # type: ignore[index]
    with averages.swapped(net):
        assert torch.equal(net.state_dict()["0.weight"], start["0.weight"])
        assert torch.equal(net.state_dict()["1.running_var"], start["1.running_var"])
    assert net[0].weight is parameter  # type: ignore[index]
    assert all(torch.equal(net.state_dict()[name], changed[name]) for name in changed)
    assert torch.equal(averages.values["0.weight"], start["0.weight"])


def test_swapped_back_after_an_error() -> None:
    net = model()
    averages = Averages(net, 0.9)
    change(net)
    changed = values(net)
    with pytest.raises(ValueError, match="expected 4D input"), averages.swapped(net):
        net[1](torch.zeros(2))  # type: ignore[index]
    assert all(torch.equal(net.state_dict()[name], changed[name]) for name in changed)


def test_copy_to() -> None:
    net = model()
    averages, start = Averages(net, 0.9), values(net)
    change(net)
    averages.copy_to(net)
    assert torch.equal(net.state_dict()["0.weight"], start["0.weight"])
    assert int(net.state_dict()["1.num_batches_tracked"]) == 1


def test_start_from_other_values() -> None:
    net = model()
    averages = Averages(net, 0.9, {"0.bias": torch.full((4,), 7.0)})
    assert averages.values["0.bias"].tolist() == [7.0] * 4
    assert torch.equal(averages.values["0.weight"], net.state_dict()["0.weight"])
    for wrong in ({"0.bias": torch.zeros(3)}, {"2.bias": torch.zeros(4)}):
        with pytest.raises(ConfigError, match=r"averages do not fit the model: [02]\.bias; expected"):
            Averages(net, 0.9, wrong)
    with pytest.raises(ConfigError, match=r"do not fit the model: 0\.bias"):
        averages.load_state_dict({name: tensor for name, tensor in averages.values.items() if name != "0.bias"})
