"""Epochs of a training that never ran."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from effdet_torch.metrics.coco import METRICS
from effdet_torch.train.recipe import make_recipe
from effdet_torch.train.request import TrainRequest
from effdet_torch.train.run.results import EpochResult

NASTY = "<script>alert(1)</script>\x1b[31m\udc80"  # as a name


def epoch_result(epoch: int, ap: float | None = 0.25, **changes: Any) -> EpochResult:
    """Return an epoch; its AP is `ap` with averages and half of it without, and None was not validated."""
    values: dict[str, Any] = {
        "epoch": epoch,
        "step": 10 * epoch,
        "seconds": 20.0,
        "validation_seconds": 5.0,
        "images": 100,
        "losses": {"total": 2.0 / epoch, "classes": 1.0 / epoch, "boxes": 0.02 / epoch, "iou": 0.0, "l2": 0.1},
        "lr": 0.08 / epoch,
        "gradient_norm": 3.5,
        "memory_bytes": 2_000_000_000,
    }
    if ap is not None:
        scores = {"ema": ap, "raw": ap / 2}
        values["metrics"] = {copy: dict.fromkeys(METRICS, score) for copy, score in scores.items()}
        values["per_class"] = {copy: {"cat": score, NASTY: -1.0} for copy, score in scores.items()}
    return EpochResult(**values | changes)


def request(out: Path, **changes: Any) -> TrainRequest:
    """Return the request of a small training; changes are of it or its recipe."""
    recipe = {name: changes.pop(name) for name in ("epochs", "batch", "lr", "seed", "augment") if name in changes}
    return TrainRequest(out / "data", out, make_recipe("official", **recipe), "official", **changes)
