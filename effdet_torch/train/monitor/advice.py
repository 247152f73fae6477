"""What the numbers of a training mean, where people usually misread them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from effdet_torch.train.run.results import EpochResult

NOTHING = 0.01  # an AP below it is that of a model that finds nothing
SOMETHING = 0.05
PATIENT_EPOCHS = 3
FALLEN = 0.95  # a loss that is still above this part of its start has not fallen


def advice(earlier: Sequence[EpochResult], result: EpochResult) -> Iterator[str]:
    """Yield what should be known after an epoch.

    Args:
        earlier: the epochs before.
        result: of the epoch.
    """
    ema, raw = (result.metric(copy, "AP") for copy in ("ema", "raw"))
    if ema is not None and raw is not None and ema < NOTHING and raw > SOMETHING:
        yield (
            f"AP of the averages (ema) is {100 * ema:.1f}, of the weights themselves (raw) {100 * raw:.1f}: after "
            f"{result.step} updates the averages still hold old values. They catch up later; best.pth has the better "
            "copy, and --no-ema trains without averages"
        )
    if len(earlier) + 1 == PATIENT_EPOCHS:
        yield from _after_some_epochs(earlier[0].losses["total"], result, [ap for ap in (ema, raw) if ap is not None])


def _after_some_epochs(first: float | None, result: EpochResult, scores: Sequence[float]) -> Iterator[str]:
    last = result.losses["total"]
    if first is None or last is None:
        return
    if last > FALLEN * first:
        yield (
            f"after {PATIENT_EPOCHS} epochs the loss is {last:.3g}; it began at {first:.3g} and does not fall. Check "
            f"in samples_train.png that the boxes fit. If they do, --lr (now {result.lr:.3g}) is too high or too low "
            "for this batch, or --freeze leaves too little to train"
        )
    elif scores and max(scores) < NOTHING:
        yield (
            f"after {PATIENT_EPOCHS} epochs the loss has fallen from {first:.3g} to {last:.3g}, but AP is below 1; "
            "look at samples_val.png. Boxes in the right places with wrong names: the classes of training and "
            "validation differ. No boxes: train longer; the statistics of batch norms need some hundred updates"
        )
