"""What the numbers of a training mean, where people usually misread them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from effdet_torch.train.recipe import Recipe
from effdet_torch.train.run.results import EpochResult

NOTHING = 0.01  # an AP below it is that of a model that finds nothing
SOMETHING = 0.05
PATIENT_EPOCHS = 3
FALLEN = 0.95  # a loss that is still above this part of its start has not fallen


def advice(earlier: Sequence[EpochResult], result: EpochResult, recipe: Recipe) -> Iterator[str]:
    """Yield what should be known after an epoch.

    Args:
        earlier: the epochs before.
        result: of the epoch.
        recipe: the settings.
    """
    ema, raw = (result.metric(copy, "AP") for copy in ("ema", "raw"))
    if ema is not None and raw is not None and ema < NOTHING and raw > SOMETHING:
        yield (
            f"AP of the averages (ema) is {100 * ema:.1f}, that of the weights themselves (raw) {100 * raw:.1f}: after "
            f"{result.step} updates the averages still hold values of the start. They follow later; best.pth is the "
            "better copy, and --no-ema trains without averages"
        )
    epochs = [*earlier, result]
    first, last = epochs[0].losses["total"], result.losses["total"]
    if len(epochs) == PATIENT_EPOCHS and first is not None and last is not None and last > FALLEN * first:
        yield (
            f"after {PATIENT_EPOCHS} epochs the loss is {last:.3g}, and it began at {first:.3g}: it does not fall. "
            f"Look at samples_train.png: do the boxes fit? If so, --lr (now {result.lr:.3g}) is too high or too low "
            "for this batch, or --freeze leaves too little to train"
        )
    if len(epochs) == PATIENT_EPOCHS and raw is not None and max(raw, ema or 0) < NOTHING and last is not None:
        if first is not None and last <= FALLEN * first:
            yield (
                f"after {PATIENT_EPOCHS} epochs the loss has fallen to {last:.3g}, but AP is below 1: look at "
                "samples_val.png. Boxes in the right places with wrong names: the classes of training and validation "
                "differ. No boxes: train longer; the batch norms' statistics need some hundred updates"
            )
