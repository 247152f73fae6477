"""The numbers of every epoch, as a table for spreadsheets and a file for programs."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from io import StringIO
from pathlib import Path

import msgspec

from effdet_torch.errors import EffdetError
from effdet_torch.metrics.coco import METRICS
from effdet_torch.untrusted.files import MAX_JSON_BYTES, read_bytes, reason_of
from effdet_torch.untrusted.text import printable

NEXT_STEP = "restore it, or start a new run with another --out"
COPIES = ("ema", "raw")  # of the weights, each with metrics of its own
NO_TRUTH = -1  # a metric of COCO where there is nothing to find


@dataclass(frozen=True)
class EpochResult:
    """One epoch.

    Attributes:
        epoch: its number, from 1.
        step: updates done so far.
        seconds: of training.
        images: that were trained on.
        losses: {"total", "classes", "boxes", "iou", "l2": mean over the updates}.
        lr: learning rate of the last update.
        gradient_norm: mean over the updates, before clipping.
        metrics: {copy: {name in `METRICS`: 0 to 1, -1 where there is nothing to find}}; empty without a validation.
        per_class: {copy: {class name: AP}}, likewise.
        validation_seconds: of the validations and what else followed.
        memory_bytes: the most memory so far; None if unknown.
    """

    epoch: int
    step: int
    seconds: float
    images: int
    losses: Mapping[str, float | None]
    lr: float
    gradient_norm: float | None = None
    metrics: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    per_class: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    validation_seconds: float = 0.0
    memory_bytes: int | None = None

    @property
    def score(self) -> float:
        """The AP by which epochs are compared: of the better copy; below 0 without a validation."""
        return max((values["AP"] for values in self.metrics.values()), default=NO_TRUTH)

    def metric(self, copy: str, name: str) -> float | None:
        """Return a metric, 0 to 1; None if it was not measured, or there is nothing to find."""
        value = self.metrics.get(copy, {}).get(name, NO_TRUTH)
        return None if value == NO_TRUTH else value


def _metric(copy: str, name: str) -> Callable[[EpochResult], float | None]:
    return lambda result: result.metric(copy, name)


def _loss(name: str) -> Callable[[EpochResult], float | None]:
    return lambda result: result.losses.get(name)


# The columns of results.csv.
COLUMNS: Mapping[str, Callable[[EpochResult], float | None]] = {
    "epoch": lambda result: result.epoch,
    "step": lambda result: result.step,
    "lr": lambda result: result.lr,
    "loss": _loss("total"),
    "class_loss": _loss("classes"),
    "box_loss": _loss("boxes"),
    "iou_loss": _loss("iou"),
    "l2_loss": _loss("l2"),
    "gradient_norm": lambda result: result.gradient_norm,
    **{f"{name}_{copy}": _metric(copy, name) for copy in COPIES for name in METRICS},
    "seconds": lambda result: result.seconds,
    "validation_seconds": lambda result: result.validation_seconds,
    "images_per_second": lambda result: result.images / result.seconds if result.seconds else None,
    "memory_bytes": lambda result: result.memory_bytes,
}


@dataclass(frozen=True)
class Results:
    """The epochs of a run.

    Attributes:
        epochs: in order; only the best and the last validated one keep their classes.
        notes: what people should know: sentences.
    """

    epochs: tuple[EpochResult, ...] = ()
    notes: tuple[str, ...] = ()

    def adding(self, result: EpochResult) -> Results:
        """Return the results with one more epoch.

        It takes the place of the same and of later ones: an interrupted run repeats what its state did not keep.
        """
        classes = {copy: {printable(name): ap for name, ap in aps.items()} for copy, aps in result.per_class.items()}
        result = replace(result, per_class=classes)  # no file has halves of surrogate pairs
        kept = Results((*(row for row in self.epochs if row.epoch < result.epoch), result), self.notes)
        shown = {row.epoch for row in (kept.best, kept.last_validated) if row is not None}
        rows = (row if row.epoch in shown else replace(row, per_class={}) for row in kept.epochs)
        return replace(kept, epochs=tuple(rows))

    def noting(self, note: str) -> Results:
        """Return the results with one more note; a note that is there already is not repeated."""
        note = printable(note)
        return self if note in self.notes else replace(self, notes=(*self.notes, note))

    @property
    def best(self) -> EpochResult | None:
        """The epoch with the highest AP, the first of equal ones; None before a validation."""
        return max((row for row in self.epochs if row.metrics), key=lambda row: row.score, default=None)

    @property
    def last_validated(self) -> EpochResult | None:
        """The last epoch that was validated."""
        return next((row for row in reversed(self.epochs) if row.metrics), None)


def to_csv(results: Results) -> bytes:
    """Return a table with one row per epoch; a cell is empty where nothing was measured."""
    stream = StringIO()
    rows = ([value(row) for value in COLUMNS.values()] for row in results.epochs)
    csv.writer(stream, lineterminator="\n").writerows([list(COLUMNS), *rows])
    return stream.getvalue().encode()


def to_json(results: Results) -> bytes:
    """Return everything for programs; numbers that are not finite become null."""
    return msgspec.json.format(msgspec.json.encode(results)) + b"\n"


def read_results(path: Path) -> Results:
    """Return what `to_json` wrote.

    Raises:
        EffdetError: The file is missing or damaged.
    """
    try:
        found: Results = msgspec.json.decode(read_bytes(path, MAX_JSON_BYTES), type=Results)
    except (OSError, msgspec.DecodeError, RecursionError) as error:
        reason = reason_of(error) if isinstance(error, OSError) else error
        raise EffdetError(f"{path} cannot be read: {reason}; {NEXT_STEP}") from error
    return found
