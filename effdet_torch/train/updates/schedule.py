"""Learning rate of every step: a linear rise, then a fall.

Source: the official code's `det_model_fn.learning_rate_schedule`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from effdet_torch.errors import ConfigError
from effdet_torch.train.recipe import Recipe

DROP_PARTS = (200 / 300, 250 / 300)  # the official drops, as parts of the official 300 epochs
DROP_FACTORS = (0.1, 0.01)
OFFICIAL_POWER = 0.9


@dataclass(frozen=True)
class Schedule:
    """A learning rate as a function of the step.

    Attributes:
        kind: a key of `FALLS`: "cosine", "stepwise", "polynomial" or "constant", which has no warm-up.
        base: rate at the end of the warm-up, from which it falls.
        warmup_start: rate of step 0, if there is a warm-up.
        warmup_steps: in which the rate rises to `base`.
        total_steps: updates of the whole training.
        drops: of "stepwise": (step, factor of `base` from this step on), in order.
        power: of "polynomial".
        anneal_to_end: "cosine" begins after the warm-up and reaches 0 at the last step; otherwise it is the official
            one, which is 0 at `total_steps - warmup_steps` and then rises.

    Raises:
        ConfigError: There is no such kind, or no step.
    """

    kind: str
    base: float
    warmup_start: float = 0.0
    warmup_steps: int = 0
    total_steps: int = 1
    drops: tuple[tuple[int, float], ...] = ()
    power: float = OFFICIAL_POWER
    anneal_to_end: bool = False

    def __post_init__(self) -> None:
        if self.kind not in FALLS:
            raise ConfigError(f"unknown schedule {self.kind!r}; expected one of {', '.join(FALLS)}")
        if self.total_steps < 1:
            raise ConfigError(
                f"the training has {self.total_steps} steps; expected at least 1: use more epochs or a smaller batch"
            )


def make_schedule(recipe: Recipe, images_per_update: int, steps_per_epoch: float) -> Schedule:
    """Return the schedule of a recipe, with the official arithmetic: fractions of a step are cut off.

    Args:
        recipe: the settings.
        images_per_update: batch x grad_accum x processes; the default rate is proportional to it.
        steps_per_epoch: updates per epoch. The official one is a fraction, training images / images per update.

    Raises:
        ConfigError: The training would have no step.
    """
    base, total_epochs = recipe.top_rate(images_per_update), recipe.epochs
    drops = recipe.drop_epochs or tuple(part * total_epochs for part in DROP_PARTS)
    return Schedule(
        kind=recipe.schedule,
        base=base,
        warmup_start=base * recipe.warmup_start,
        warmup_steps=int(recipe.warmup_epochs * steps_per_epoch),
        total_steps=int(total_epochs * steps_per_epoch),
        drops=tuple((int(epoch * steps_per_epoch), factor) for epoch, factor in zip(drops, DROP_FACTORS, strict=True)),
        anneal_to_end=recipe.anneal_to_end,
    )


def learning_rate(step: int, schedule: Schedule) -> float:
    """Return the learning rate of an update; `step` counts the updates before it, so it starts at 0."""
    if step < schedule.warmup_steps and schedule.kind != "constant":
        rise = (schedule.base - schedule.warmup_start) / schedule.warmup_steps
        return schedule.warmup_start + step * rise
    return schedule.base * FALLS[schedule.kind](step, schedule)


def _cosine(step: int, schedule: Schedule) -> float:
    period = schedule.total_steps - schedule.warmup_steps
    if schedule.anneal_to_end:
        step, period = min(step, schedule.total_steps - 1) - schedule.warmup_steps, period - 1
    return 0.5 * (1 + math.cos(math.pi * step / max(period, 1)))


def _stepwise(step: int, schedule: Schedule) -> float:
    factors = [factor for start, factor in schedule.drops if start <= step]
    return factors[-1] if factors else 1.0


def _polynomial(step: int, schedule: Schedule) -> float:
    left: float = max(1 - step / schedule.total_steps, 0.0) ** schedule.power
    return left


def _constant(_step: int, _schedule: Schedule) -> float:
    return 1.0


FALLS: Mapping[str, Callable[[int, Schedule], float]] = {
    "cosine": _cosine,
    "stepwise": _stepwise,
    "polynomial": _polynomial,
    "constant": _constant,
}
