from __future__ import annotations

from dataclasses import replace

import pytest

from effdet_torch.errors import ConfigError
from effdet_torch.train.recipe import OFFICIAL, RECIPES
from effdet_torch.train.updates.schedule import Schedule, learning_rate, make_schedule


def test_official_numbers_of_steps() -> None:
    schedule = make_schedule(replace(OFFICIAL, schedule="stepwise"), 64, 120000 / 64)
    assert (schedule.warmup_steps, schedule.total_steps, schedule.base) == (1875, 562500, 0.08)
    assert schedule.drops == ((375000, 0.1), (468750, 0.01))
    assert schedule.warmup_start == pytest.approx(0.008)


def test_fractions_of_a_step_are_cut_off_once() -> None:
    schedule = make_schedule(replace(OFFICIAL, epochs=7, warmup_epochs=1.5), 12, 500 / 12)
    assert (schedule.warmup_steps, schedule.total_steps) == (62, 291)


def test_the_rate_is_proportional_to_the_images_unless_it_is_given() -> None:
    assert make_schedule(OFFICIAL, 16, 10).base == pytest.approx(0.02)
    assert make_schedule(replace(OFFICIAL, lr=0.05), 16, 10).base == 0.05


@pytest.mark.parametrize(("recipe", "last"), [("official", 6.25e-4), ("default", 0.0)])
def test_end_of_the_cosine(recipe: str, last: float) -> None:
    schedule = make_schedule(replace(RECIPES[recipe], epochs=4), 2, 24)
    rates = [learning_rate(step, schedule) for step in range(97)]
    assert rates[96] == pytest.approx(last)
    assert (min(rates[24:]) == rates[95]) is (recipe == "default")
    assert learning_rate(24, schedule) == pytest.approx(0.0025 if recipe == "default" else 0.001875)


def test_annealing_of_a_training_that_is_all_warm_up() -> None:
    schedule = Schedule("cosine", 1.0, warmup_start=0.5, warmup_steps=2, total_steps=2, anneal_to_end=True)
    assert [learning_rate(step, schedule) for step in range(2)] == [0.5, 0.75]


def test_refused() -> None:
    with pytest.raises(ConfigError, match="unknown schedule 'linear'; expected one of cosine, stepwise"):
        Schedule("linear", 1.0)
    with pytest.raises(ConfigError, match="the training has 0 steps"):
        make_schedule(OFFICIAL, 64, 0.001)


def test_official_drops_do_not_depend_on_the_number_of_epochs() -> None:
    for recipe, drops in ((OFFICIAL, (2000, 2500)), (RECIPES["default"], (600, 750))):
        schedule = make_schedule(replace(recipe, schedule="stepwise", epochs=90), 64, 10)
        assert tuple(step for step, _ in schedule.drops) == drops
