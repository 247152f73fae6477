"""The focal loss without a one-hot copy against the formula written out over all classes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from effdet_torch.train.objective import focal as module
from effdet_torch.train.objective.focal import Focal, focal_sum
from effdet_torch.train.objective.levels import Index

SHAPE = (2, 3 * 5, 6, 7)  # three anchors, five classes
FOCAL = Focal(0.25, 1.5, 0.1)
NOTHING: Index = (torch.zeros(0, dtype=torch.int64),) * 4


class Sample(NamedTuple):
    logits: Tensor
    objects: Index
    ignored: Index


@pytest.fixture
def sample() -> Sample:
    """Logits up to 40, of which 8 are objects, and all of two anchors are ignored: an object among them."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(SHAPE, generator=generator, dtype=torch.float64) * 12
    image, y, x = torch.tensor([0, 0, 0, 1, 1, 1, 1, 1]), torch.tensor([0, 5, 2] * 2 + [1, 1]), torch.arange(8) % 7
    objects = image, torch.arange(8) + 3, y, x
    column = torch.tensor([[0], [1]])
    return Sample(logits, objects, (column, torch.arange(5) + 5 * column, column + 3, column + 4))


def by_formula(logits: Tensor, objects: Index, ignored: Index, focal: Focal) -> Tensor:
    """Lin et al., equation 5, over a one-hot copy; only the cross entropy sees the smoothed target."""
    target, mask = torch.zeros_like(logits), torch.ones_like(logits)
    target[objects], mask[ignored] = 1, 0
    chance = logits.sigmoid()
    wrong = target * (1 - chance) + (1 - target) * chance
    weight = target * focal.alpha + (1 - target) * (1 - focal.alpha)
    smoothed = target * (1 - focal.smoothing) + focal.smoothing / 2
    entropy = F.binary_cross_entropy_with_logits(logits, smoothed, reduction="none")
    return (weight * wrong**focal.gamma * entropy * mask).sum()


def value_and_gradient(
    function: Callable[[Tensor, Index, Index, Focal], Tensor], sample: Sample, focal: Focal = FOCAL
) -> tuple[Tensor, Tensor]:
    logits = sample.logits.detach().requires_grad_()
    total = function(logits, sample.objects, sample.ignored, focal)
    (total * 3).backward()
    assert logits.grad is not None
    return total.detach(), logits.grad / 3


@pytest.mark.parametrize("focal", [FOCAL, Focal(0.3, 0.0, 0.0), Focal(0.0, 2.0, 0.5), Focal(1.0, 0.5, 0.0)])
def test_value_and_gradient_are_those_of_the_formula(sample: Sample, focal: Focal) -> None:
    for found, expected in zip(
        value_and_gradient(focal_sum, sample, focal), value_and_gradient(by_formula, sample, focal), strict=True
    ):
        torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-13)
    other = value_and_gradient(focal_sum, sample, focal._replace(gamma=focal.gamma + 0.01))  # control
    assert not torch.allclose(other[0], value_and_gradient(by_formula, sample, focal)[0], rtol=1e-6)


def test_ignored_logits_have_neither_loss_nor_gradient(sample: Sample) -> None:
    _, gradient = value_and_gradient(focal_sum, sample)
    assert (gradient[sample.ignored] == 0).all()
    assert (value_and_gradient(focal_sum, sample._replace(ignored=NOTHING))[1][sample.ignored] != 0).any()


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "NHWC": lambda logits: logits.contiguous(memory_format=torch.channels_last),
    "with gaps": lambda logits: torch.stack((logits, logits * 2), dim=3)[:, :, :, 0],
    "transposed": lambda logits: logits.transpose(2, 3).contiguous().transpose(2, 3),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("piece", [7, 1 << 17])
def test_layouts_and_pieces_do_not_matter(
    sample: Sample, layout: str, piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = value_and_gradient(focal_sum, sample)
    monkeypatch.setitem(module.PIECE, "cpu", piece)
    found = value_and_gradient(focal_sum, sample._replace(logits=LAYOUTS[layout](sample.logits)))
    torch.testing.assert_close(found, expected, rtol=1e-13, atol=1e-15)


def test_16_bit_logits_are_computed_in_float32(sample: Sample) -> None:
    rounded = sample._replace(logits=sample.logits.bfloat16())
    wide = value_and_gradient(focal_sum, sample._replace(logits=rounded.logits.float()))
    value, gradient = value_and_gradient(focal_sum, rounded)
    assert value == wide[0]
    assert value.dtype == torch.float32
    assert gradient.dtype == torch.bfloat16
    assert torch.allclose(gradient.float(), wide[1], rtol=2**-7)
    # Control: the formula in bfloat16 is off.
    assert abs(value_and_gradient(by_formula, rounded)[0].item() / value.item() - 1) > 1e-4


class LargeTensors(TorchDispatchMode):
    """Counts the tensors of a size or above that operations make, views aside."""

    def __init__(self, numbers: int) -> None:
        super().__init__()
        self.numbers, self.storages = numbers, set[int]()
        self._kept: list[Tensor] = []  # so that no address is used twice

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        for tensor in _tensors(result):
            if tensor.numel() >= self.numbers and not any(tensor is other for other in _tensors(args)):
                self._kept.append(tensor)
                self.storages.add(tensor.untyped_storage().data_ptr())
        return result


def _tensors(values: Any) -> Iterator[Tensor]:
    for value in values if isinstance(values, (tuple, list)) else (values,):
        if isinstance(value, Tensor):
            yield value


@pytest.mark.parametrize(("function", "least", "most"), [(focal_sum, 1, 3), (by_formula, 6, 99)])
def test_memory_is_that_of_the_gradient(function: Any, least: int, most: int) -> None:
    logits = torch.randn(2, 90 * 9, 16, 16, requires_grad=True)
    assert logits.numel() > 2 * module.PIECE["cpu"]
    with LargeTensors(logits.numel()) as large:
        function(logits, NOTHING, NOTHING, FOCAL).backward()
    made = large.storages - {logits.untyped_storage().data_ptr()}
    assert least <= len(made) <= most  # control: the formula makes many


def test_a_second_derivative_is_refused(sample: Sample) -> None:
    logits = sample.logits.detach().requires_grad_()
    total = focal_sum(logits, NOTHING, NOTHING, FOCAL)
    gradient = torch.autograd.grad(total * logits.sum(), logits, create_graph=True)[0]
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()
