"""Batches that are too small for batch norms, learning rates that are not meant for an optimizer."""

from __future__ import annotations

from typing import Any

import pytest

from effdet_torch.config import get_config
from effdet_torch.errors import ConfigError
from effdet_torch.processes import ALONE, Processes
from effdet_torch.train.monitor.checks import check_batch_norms, check_rate
from effdet_torch.train.recipe import Recipe

SMALL = get_config("d0", image_size=(128, 128))
TWO = Processes(0, 2)


def check(size: int, processes: Processes = ALONE, **settings: Any) -> str | None:
    return check_batch_norms(Recipe(**settings), get_config("d0", image_size=(size, size)), processes)


@pytest.mark.parametrize("settings", [{"batch": 1}, {"batch": 1, "sync_bn": True}, {"batch": 1, "grad_accum": 8}])
def test_one_value_per_channel_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="1 image of 128 x 128 pixels the features of level P7 are 1 x 1"):
        check(128, **settings)


def test_processes_without_synchronisation_do_not_help() -> None:
    with pytest.raises(ConfigError, match="--sync-bn in several processes"):
        check(128, TWO, batch=1)
    assert "see 2 images at a time" in (check(128, TWO, batch=1, sync_bn=True) or "")


@pytest.mark.parametrize(
    ("size", "settings"), [(128, {"batch": 1, "freeze_bn": True}), (128, {"batch": 4}), (512, {"batch": 4})]
)
def test_enough_values_pass_without_a_word(size: int, settings: dict[str, Any]) -> None:
    assert check(size, **settings) is None


def test_few_images_are_warned_of() -> None:
    assert "see 1 image at a time: below 4" in (check(256, batch=1) or "")
    assert "--sync-bn" not in (check(256, batch=3) or "--sync-bn")
    assert "--sync-bn" in (check(256, TWO, batch=3) or "")
    assert check(256, TWO, batch=3, sync_bn=True) is None


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_the_default_rate_of_sgd_is_too_high_for_others(name: Any) -> None:
    (text,) = check_rate(Recipe(optimizer=name), 16)
    assert "is 0.02, the default, which is meant for sgd" in text
    assert text.endswith("a tenth, --lr 0.002")
    assert not list(check_rate(Recipe(optimizer=name, lr=0.02), 16))
    assert not list(check_rate(Recipe(), 16))


def test_a_warm_up_without_an_end_is_warned_of() -> None:
    (text,) = check_rate(Recipe(epochs=5, warmup_epochs=5), 64)
    assert text.startswith(
        "the warm-up is not shorter than the training (epochs: 5 and 5), so the learning rate does not"
    )
    assert not list(check_rate(Recipe(epochs=6, warmup_epochs=5), 64))


def test_a_warm_up_has_a_number_of_epochs() -> None:
    with pytest.raises(ConfigError, match="warmup_epochs is inf; expected 0 or more"):
        Recipe(warmup_epochs=float("inf"))
