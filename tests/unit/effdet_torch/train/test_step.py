"""One update: several passes as one, numbers that are not finite, 16 bits, and a state that goes on bit for bit."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from effdet_torch.errors import ConfigError, TrainingError
from effdet_torch.network.model import EfficientDet
from effdet_torch.train import step as step_module
from effdet_torch.train.objective.loss import DetectionLoss
from effdet_torch.train.objective.targets import TargetAssigner
from effdet_torch.train.recipe import Recipe, make_recipe
from effdet_torch.train.step import StepResult, TrainStep
from effdet_torch.train.updates.schedule import make_schedule
from support.coco_samples import small_model
from support.shared_training import TrainingBatch

BOXES = torch.tensor([[4.0, 4, 40, 30], [20, 10, 60, 50]])
IMAGES = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def make_step(model: EfficientDet, **changes: Any) -> TrainStep:
    recipe = make_recipe("official", **({"epochs": 3, "lr": 0.01} | changes))
    return TrainStep(model, recipe, make_schedule(recipe, 4, 4), DetectionLoss(recipe, model.config))


def batch(model: EfficientDet, first: int = 0, last: int = 4) -> TrainingBatch:
    """Return some of four images, which have 0, 1, 2, 2 boxes."""
    boxes = [BOXES[:count] for count in (0, 1, 2, 2)][first:last]
    targets = TargetAssigner(model.config)(boxes, [torch.arange(len(b)) % 2 + 1 for b in boxes])
    return TrainingBatch(IMAGES[first:last], targets)


def weights(step: TrainStep) -> dict[str, Tensor]:
    assert step.averages is not None
    averages = {f"ema {name}": tensor for name, tensor in step.averages.values.items()}
    return {name: tensor.clone() for name, tensor in {**step.model.state_dict(), **averages}.items()}


def furthest(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    assert found.keys() == expected.keys()
    return max(float((found[name].double() - expected[name].double()).abs().max()) for name in found)


@pytest.mark.parametrize(("last", "largest"), [(4, 1e-12), (3, None)])
def test_several_passes_are_one_batch(last: int, largest: float | None) -> None:
    found = []
    for parts in ([(0, 4)], [(0, 1), (1, last)]):
        model = small_model().double()
        step = make_step(model, freeze_bn=True, grad_accum=len(parts))
        results = [step([batch(model, *part) for part in parts]) for _ in range(3)]
        found.append((weights(step), results))
    (whole, one), (split, several) = found
    if largest is None:  # negative control: an image is missing
        assert furthest(whole, split) > 1e-6
    else:
        assert furthest(whole, split) < largest
        assert [tuple(r) for r in several] == [pytest.approx(tuple(r), rel=1e-12) for r in one]


def test_the_loss_has_the_l2_term_and_decoupled_decay_has_none() -> None:
    model = small_model()
    result = make_step(model, weight_decay=0.1)([batch(model)])
    assert result.l2 > 0
    assert result.total == pytest.approx(result.classes + 50 * result.boxes + result.l2, rel=1e-5)
    assert make_step(small_model(), weight_decay=0.1, optimizer="adamw")([batch(model)]).l2 == 0


def test_average_of_the_normaliser_starts_at_0() -> None:
    model = small_model()
    positives = int(batch(model).targets.positives.sum())
    step = make_step(model, positives_momentum=0.9)
    step([batch(model)])
    assert step.average_positives == pytest.approx(0.1 * (positives + 1))
    step([batch(model)])
    assert step.average_positives == pytest.approx(0.19 * (positives + 1))


def test_frozen_parameters_stay_and_their_statistics_and_averages_move() -> None:
    model = small_model()
    step = make_step(model, freeze="backbone")
    before = weights(step)
    step([batch(model)])
    moved = {name for name, tensor in weights(step).items() if not torch.equal(tensor, before[name])}
    assert {"backbone.bn1.running_mean", "ema backbone.bn1.running_mean", "class_net.predict.conv_pw.bias"} <= moved
    assert not moved & {"backbone.bn1.weight", "backbone.conv_stem.weight", "ema backbone.conv_stem.weight"}


def test_the_step_trains_a_model_that_was_being_evaluated() -> None:
    model = small_model()
    step = make_step(model)
    model.eval()
    before = model.backbone.bn1.running_mean.clone()  # type: ignore[operator, union-attr]
    step([batch(model)])
    assert not torch.equal(model.backbone.bn1.running_mean, before)  # type: ignore[arg-type]


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_a_resumed_training_is_the_undisturbed_one_bit_for_bit(optimizer: str) -> None:
    whole = make_step(small_model(), optimizer=optimizer, positives_momentum=0.5)
    first = make_step(small_model(), optimizer=optimizer, positives_momentum=0.5)
    for _ in range(2):
        whole([batch(whole.model)])
        first([batch(first.model)])
    second = make_step(small_model(seed=1), optimizer=optimizer, positives_momentum=0.5)
    second.model.load_state_dict(deepcopy(first.model.state_dict()))
    second.load_state_dict(deepcopy(first.state_dict()))
    for _ in range(2):
        assert second([batch(second.model)]) == whole([batch(whole.model)])
    assert all(torch.equal(a, b) for a, b in zip(weights(second).values(), weights(whole).values(), strict=True))
    forgetful = make_step(small_model(seed=1), optimizer=optimizer, positives_momentum=0.5)  # negative control
    forgetful.model.load_state_dict(deepcopy(first.model.state_dict()))
    forgetful([batch(second.model)])
    forgetful([batch(second.model)])
    assert furthest(weights(forgetful), weights(whole)) > 1e-6


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"freeze": "backbone"}, "the state to resume trains other parameters; .*backbone.blocks"),
        ({"ema": None}, "made with another --ema"),
    ],
)
def test_a_state_of_another_training_is_refused(changes: dict[str, Any], message: str) -> None:
    model = small_model()
    state = make_step(model).state_dict()
    other = make_step(model)
    if "ema" in changes:
        recipe = replace(other.recipe, ema=None)
        other = TrainStep(model, recipe, other.schedule, DetectionLoss(recipe, model.config))
    else:
        other = make_step(model, **changes)
    with pytest.raises(ConfigError, match=message):
        other.load_state_dict(state)


def test_a_loss_that_is_not_finite_ends_the_training_before_the_weights_change() -> None:
    model = small_model()
    step = make_step(model)
    before = weights(step)
    images = IMAGES.clone()
    images[0, 0, 0, 0] = float("nan")
    with pytest.raises(TrainingError, match=r"step 0: the class loss is nan; expected a finite number\. Pass a lower"):
        step([batch(model)._replace(images=images)])
    parameters = dict(model.named_parameters())
    assert all(torch.equal(parameters[name], before[name]) for name in parameters)
    assert step.step == 0


def test_a_gradient_that_is_not_finite_ends_the_training() -> None:
    model = small_model()
    step = make_step(model)
    model.backbone.conv_stem.weight.register_hook(lambda gradient: gradient * float("inf"))  # type: ignore[union-attr, operator]
    with pytest.raises(TrainingError, match=r"the norm of the gradients is (inf|nan)"):
        step([batch(model)])


class OverflowingScaler:
    """Stands for CUDA's scaler, whose steps are skipped."""

    def scale(self, loss: Tensor) -> Tensor:
        return loss * float("inf")

    def unscale_(self, _optimizer: Any) -> None: ...

    def step(self, _optimizer: Any) -> None: ...

    def update(self) -> None: ...

    def is_enabled(self) -> bool:
        return True


def test_overflows_of_16_bits_are_counted_until_they_do_not_end(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small_model()
    step = make_step(model)
    before = weights(step)
    monkeypatch.setattr(step, "scaler", OverflowingScaler())
    monkeypatch.setattr(step_module, "MOST_SKIPPED", 3)
    assert [step([batch(model)]).skipped for _ in range(2)] == [True, True]
    assert (step.skipped, step.step) == (2, 2)
    parameters = dict(model.named_parameters())
    assert all(torch.equal(parameters[name], before[name]) for name in parameters)
    with pytest.raises(TrainingError, match="overflowed 3 times in a row"):
        step([batch(model)])


def losses(results: list[StepResult]) -> Tensor:
    return torch.tensor([result.total for result in results])


def test_16_bits_on_the_cpu_train_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    found, kinds = [], []
    original = DetectionLoss.forward

    def forward(self: DetectionLoss, class_logits: list[Tensor], *others: Any) -> Any:
        kinds.append(class_logits[0].dtype)
        result = original(self, class_logits, *others)
        assert result.total.dtype == torch.float32
        return result

    monkeypatch.setattr(DetectionLoss, "forward", forward)
    for amp in (False, True):
        step = make_step(small_model(), amp=amp)
        found.append(losses([step([batch(step.model)]) for _ in range(3)]))
    assert kinds == [torch.float32] * 3 + [torch.bfloat16] * 3
    assert not torch.equal(*found)
    torch.testing.assert_close(found[1], found[0], rtol=0.02, atol=0)


def test_memory_layouts_train_alike() -> None:
    found = []
    for channels_last in (False, True):
        model = small_model().double()
        recipe = Recipe(epochs=3, lr=0.01)
        schedule, loss = make_schedule(recipe, 4, 4), DetectionLoss(recipe, model.config)
        step = TrainStep(model, recipe, schedule, loss, channels_last=channels_last)
        step([batch(model)])
        found.append(weights(step))
    assert furthest(*found) < 1e-12
