"""Learning rates of both official trainers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from effdet_torch.train.updates.schedule import FALLS, Schedule, learning_rate
from support.training import load_arrays, load_json

TRAINERS = ("main_py", "tf2_train_py")
TOLERANCE = 1e-6  # of the base rate; the official numbers are float32


def stated_schedule(stated: dict[str, Any]) -> Schedule:
    drops = (
        ((stated["first_lr_drop_step"], 0.1), (stated["second_lr_drop_step"], 0.01))
        if "first_lr_drop_step" in stated
        else ()
    )
    return Schedule(
        kind=stated["lr_decay_method"],
        base=stated["adjusted_learning_rate"],
        # The second trainer does not scale it by the batch.
        warmup_start=stated.get("adjusted_lr_warmup_init", stated["lr_warmup_init"]),
        warmup_steps=stated["lr_warmup_step"],
        total_steps=stated["total_steps"],
        drops=drops,
        power=stated["poly_lr_power"],
    )


def errors(shared: Path) -> dict[str, float]:
    if not (shared / "reference" / "training" / "lr_schedules.npz").is_file():
        pytest.skip("no official learning rates (../shared/reference/training)")
    arrays, facts = load_arrays(shared, "lr_schedules.npz"), load_json(shared, "lr_schedules.json")
    found = {}
    for name, trainer in ((name, trainer) for name in facts for trainer in TRAINERS):
        if (official := arrays.get(f"{name}|{trainer}")) is not None:
            schedule = stated_schedule(facts[name][trainer])
            steps = arrays[f"{name}|step"].tolist()
            ours = [learning_rate(step, schedule) for step in steps]
            found[f"{name} {trainer}"] = float(abs(official - ours).max() / schedule.base)
    return found


def test_all_series(shared: Path) -> None:
    found = errors(shared)
    assert len(found) == 19
    assert max(found.values()) < TOLERANCE, found


def test_another_period_breaks_the_cosines(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FALLS, "cosine", lambda step, schedule: COSINE(step, replace(schedule, warmup_steps=0)))
    assert {name for name, error in errors(shared).items() if error > TOLERANCE} == {
        f"{name} {trainer}" for name in COSINES for trainer in TRAINERS
    }


COSINE = FALLS["cosine"]
COSINES = ("cosine_batch64_coco", "cosine_batch8_coco50", "cosine_batch2_small", "cosine_batch12_fraction")
