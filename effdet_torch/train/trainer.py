"""The loop: updates, validations, and what is saved on the way."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from itertools import islice
from typing import Any

import numpy as np
import torch

from effdet_torch.errors import TrainingError
from effdet_torch.network.saving import save_model
from effdet_torch.processes import processes
from effdet_torch.train.monitor.advice import advice
from effdet_torch.train.input.loader import Batch
from effdet_torch.train.monitor.interruption import Interruption
from effdet_torch.train.monitor.memory import peak_bytes
from effdet_torch.train.norms import average_statistics
from effdet_torch.train.request import OpenSource, TrainRequest
from effdet_torch.train.run.folder import RunFolder
from effdet_torch.train.run.progress import RunProgress
from effdet_torch.train.run.results import EpochResult, Results
from effdet_torch.train.run.settings import settings_of
from effdet_torch.train.setup import Setup, device_name, set_up
from effdet_torch.train.state import TrainState, load_state, save_state
from effdet_torch.train.step import StepResult
from effdet_torch.train.validate import Validation, validate

SAVE_SECONDS = 600  # between two states inside an epoch
BEST, LAST = "best.pth", "last.pth"
LOSSES = ("total", "classes", "boxes", "iou", "l2")


def train(request: TrainRequest, open_source: OpenSource | None = None) -> Results | None:
    """Train a model and write its run folder; None in all processes but the first.

    Args:
        request: what to train, on what, how, and where to.
        open_source: opens what is not a file of this project; `converter` has one.

    Raises:
        EffdetError: Something cannot be read or written or does not fit, or the loss is not finite. What was saved
            before stays.
    """
    with processes(device_name(request)) as group:
        state = load_state(request.out) if request.resume else None
        setup = set_up(request, group, open_source, state)
        return Trainer(setup, state).run()


class Trainer:
    """Runs a training from where its state says.

    Args:
        setup: everything that it needs.
        state: of the run that is resumed.
    """

    def __init__(self, setup: Setup, state: TrainState | None) -> None:
        self.setup, self.step = setup, setup.step
        self.state = state or TrainState(origin=setup.origin)
        self.state.finished &= self.state.epoch >= setup.recipe.epochs  # more epochs may be wanted now
        self.is_first = setup.processes.rank == 0
        self.folder: RunFolder | None = None
        if self.is_first:
            request = setup.request
            self.folder = RunFolder(
                request.out,
                settings_of(request, setup.facts),
                resume=request.resume,
                tensorboard=request.tensorboard,
                first_step=self.step.step,
            )
            for note in setup.notes:
                self.folder.note(note)
        self.progress = RunProgress(setup.recipe.epochs, len(setup.train.images))
        self._begin = self._saved = time.monotonic()

    def run(self) -> Results | None:
        """Train to the end."""
        while not self.state.finished:
            self._updates()
            self._end_of_epoch()
        return self.folder.results if self.folder else None

    def _updates(self) -> None:
        """Do the updates of an epoch that have not been done."""
        self._begin = time.monotonic()
        setup, state, interruption = self.setup, self.state, Interruption()
        first, after = setup.first_update(state.epoch), setup.first_update(state.epoch + 1)
        groups = self._groups(first + state.updates, after)
        images = setup.images_per_update
        with self.progress.epoch(state.epoch + 1, state.updates * images) as show, interruption.deferred():
            for group in groups:
                self._seed()
                result = self.step(group)
                state.updates += 1
                self._add(result)
                show(state.updates * images, result.total, peak_bytes(self.step.device))
                if interruption.wanted or time.monotonic() - self._saved > SAVE_SECONDS:
                    self._save_state()
                if interruption.wanted:
                    raise TrainingError(
                        f"interrupted after update {self.step.step} (epoch {state.epoch + 1} of {setup.recipe.epochs}); "
                        f"run effdet-train --resume --out {setup.request.out} to go on"
                    )

    def _groups(self, start: int, stop: int) -> Iterator[list[Batch]]:
        """Yield the batches of one update after another."""
        size = self.setup.recipe.grad_accum
        batches = iter(self.setup.loader.batches(start * size, stop * size))
        while group := list(islice(batches, size)):
            yield group

    def _seed(self) -> None:
        """Make what is random in the network depend on the number of the update alone, so that a resume repeats it."""
        parts = (self.setup.recipe.seed, self.setup.processes.rank, self.step.step)
        torch.manual_seed(int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0]))

    def _add(self, result: StepResult) -> None:
        sums = self.state.sums
        for name, value in {**result._asdict(), "updates": 1}.items():
            sums[name] = sums.get(name, 0.0) + value
        sums["lr"] = result.lr

    def _end_of_epoch(self) -> None:
        setup, state = self.setup, self.state
        self._save_state()  # a validation may take long
        number = state.epoch + 1
        is_validated = number % setup.recipe.val_every == 0 or number == setup.recipe.epochs
        found = self._validated() if is_validated else {}
        result = self._result(number, found)
        if self.folder:
            improved = result.score > state.best.get("AP", -1.0) if found else False
            self._save_models(result, improved)
            if improved:
                state.best, state.stale = {"AP": result.score, "epoch": number}, 0
            elif found:
                state.stale += 1
            for text in advice(self.folder.results.epochs, result, setup.recipe):
                self.folder.note(text)
            self.folder.record(result)
            self.progress.tell(result)
        state.stale, state.best = setup.processes.broadcast((state.stale, state.best))
        state.epoch, state.updates, state.sums = number, 0, {}
        is_stale = setup.recipe.patience is not None and state.stale >= setup.recipe.patience
        state.finished = number >= setup.recipe.epochs or is_stale
        self._save_state()

    def _copies(self) -> Iterator[tuple[str, AbstractContextManager[None]]]:
        """Yield the copies of the weights, and the block in which the model has their values."""
        if self.step.averages is not None:
            yield "ema", self.step.averages.swapped(self.setup.model)
        yield "raw", nullcontext()

    def _validated(self) -> dict[str, Validation]:
        """Return how good each copy of the weights is; nothing in all processes but the first."""
        setup, found = self.setup, dict[str, Validation]()
        for copy, values in self._copies():
            with values:
                average_statistics(setup.model, setup.processes)
                result = validate(setup.model, setup.val, setup.processes, workers=setup.workers)
            if result is not None:
                found[copy] = result
        return found

    def _result(self, number: int, found: Mapping[str, Validation]) -> EpochResult:
        sums = self.state.sums
        count = sums.get("updates", 0.0)
        return EpochResult(
            epoch=number,
            step=self.step.step,
            seconds=time.monotonic() - self._begin,
            images=int(count) * self.setup.images_per_update,
            losses={name: sums[name] / count for name in LOSSES},
            lr=sums["lr"],
            gradient_norm=sums["gradient_norm"] / count,
            metrics={copy: dict(validation.boxes.metrics) for copy, validation in found.items()},
            per_class={
                copy: {row.name: row.metrics["AP"] for row in validation.classes} for copy, validation in found.items()
            },
            memory_bytes=peak_bytes(self.step.device),
        )

    def _save_models(self, result: EpochResult, improved: bool) -> None:
        """Write last.pth, the averages if there are any, and best.pth, the copy with the higher AP."""
        folder, model = self.setup.request.out, self.setup.model
        usual = next(copy for copy, _ in self._copies())
        best = max(result.metrics, key=lambda copy: result.metrics[copy]["AP"]) if improved else None
        for copy, values in self._copies():
            names = [name for name, chosen in ((LAST, usual), (BEST, best)) if chosen == copy]
            with values:
                for name in names:
                    save_model(model, folder / name, training=self._provenance(result, copy))

    def _provenance(self, result: EpochResult, copy: str) -> dict[str, Any]:
        """Return how a copy of the weights was trained, for the metadata of its file."""
        return {
            "epoch": result.epoch,
            "update": result.step,
            "weights": copy,
            "AP": result.metric(copy, "AP"),
            **self.setup.provenance,
        }

    def _save_state(self) -> None:
        if self.is_first:
            self.state.model, self.state.step = self.setup.model.state_dict(), self.step.state_dict()
            save_state(self.state, self.setup.request.out)
        self._saved = time.monotonic()
