"""The loop: updates, validations, and what is saved on the way."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from itertools import islice
from typing import Any

import numpy as np
import torch

from effdet_torch.errors import TrainingError
from effdet_torch.network.saving import save_model
from effdet_torch.processes import ALONE, processes
from effdet_torch.terminal.bar import progress_bar
from effdet_torch.terminal.interruption import Interruption, terminated_as_interrupted
from effdet_torch.terminal.verbosity import tell
from effdet_torch.train.input.loader import Batch, lost_workers_reported
from effdet_torch.train.monitor.advice import advice
from effdet_torch.train.monitor.check_data import CheckedData, check_data
from effdet_torch.train.monitor.estimate import UPDATES, Estimate, TooLarge, estimate, too_large
from effdet_torch.train.monitor.failures import divergence_reported, full_memory_reported, restart_named
from effdet_torch.train.monitor.memory import peak_bytes
from effdet_torch.train.monitor.samples import found_png, trained_png
from effdet_torch.train.norms import average_statistics
from effdet_torch.train.request import OpenSource, TrainRequest
from effdet_torch.train.run.folder import RunFolder
from effdet_torch.train.run.place import BEST, LABELLED, LAST
from effdet_torch.train.run.progress import RunProgress
from effdet_torch.train.run.results import EpochResult, Results
from effdet_torch.train.run.settings import settings_of
from effdet_torch.train.setup import Setup, device_name, set_up
from effdet_torch.train.state import TrainState, load_state, save_state
from effdet_torch.train.step import StepResult
from effdet_torch.train.validate import Validation, validate

SAVE_SECONDS = 600  # between two states inside an epoch
TRAINED, FOUND = "samples_train.png", "samples_val.png"
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
    with ExitStack() as stack:
        for block in (terminated_as_interrupted(), lost_workers_reported(), full_memory_reported()):
            stack.enter_context(block)
        group = stack.enter_context(processes(device_name(request)))
        state = load_state(request.out) if request.resume else None
        return Trainer(set_up(request, group, open_source, state), state).run()


def check(request: TrainRequest, open_source: OpenSource | None = None) -> tuple[CheckedData, Estimate | TooLarge]:
    """Read all data, draw some of them into the run folder, and do a few updates to see what a training will take.

    Raises:
        EffdetError: As for `train`.
    """
    with lost_workers_reported(), full_memory_reported():
        setup = set_up(request, ALONE, open_source)
        request.out.mkdir(parents=True, exist_ok=True)
        with progress_bar("read") as progress:
            data = check_data(setup.train, setup.val, setup.data_notes, request.out / LABELLED, setup.workers, progress)
        data = data._replace(remarks=(*setup.start_notes, *setup.warnings))
        if found := too_large(setup.step, setup.config.image_size):
            return data, found
        updates, validations = (
            setup.first_update(setup.recipe.epochs),
            -(-setup.recipe.epochs // setup.recipe.val_every),
        )
        groups = groups_of(setup, 0, min(updates, UPDATES))  # workers read ahead
        return data, estimate(setup.step, groups, setup.model, setup.val, updates, validations)


def groups_of(setup: Setup, start: int, stop: int) -> Iterator[list[Batch]]:
    """Yield the batches of updates `start` to `stop`, the last one excluded; those of one update together."""
    size = setup.recipe.grad_accum
    batches = iter(setup.loader.batches(start * size, stop * size))
    while group := list(islice(batches, size)):
        yield group


class Trainer:
    """Runs a training from where its state says.

    Args:
        setup: everything that it needs.
        state: of the run that is resumed.
    """

    def __init__(self, setup: Setup, state: TrainState | None) -> None:
        self.setup, self.step = setup, setup.step
        self.state = state or TrainState(origin=setup.origin)
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
                tell(note)
            if state is not None and not self.is_finished:
                tell(f"continues after update {self.step.step}, in epoch {self.state.epoch + 1}")
        self.progress = RunProgress(setup.recipe.epochs, len(setup.train.images))
        self.interruption = Interruption()
        self._saved = time.monotonic()

    def run(self) -> Results | None:
        """Train to the end."""
        if self.folder and self.is_finished:
            tell(f"nothing left to train after epoch {self.state.epoch}; raise --epochs, or --patience if it is set")
        with self.interruption.deferred():
            while not self.is_finished:
                self._updates()
                self._end_of_epoch()
        return self.folder.results if self.folder else None

    @property
    def is_finished(self) -> bool:
        """Whether the training has ended, by its number of epochs or by patience; a resumed run may change both."""
        recipe, state = self.setup.recipe, self.state
        return state.epoch >= recipe.epochs or (recipe.patience is not None and state.stale >= recipe.patience)

    def _updates(self) -> None:
        """Do the updates of an epoch that have not been done."""
        begin = time.monotonic()
        setup, state = self.setup, self.state
        first, after = setup.first_update(state.epoch), setup.first_update(state.epoch + 1)
        groups = groups_of(setup, first + state.updates, after)
        images = setup.images_per_update
        with self.progress.epoch(state.epoch + 1, state.updates * images) as show:
            for group in groups:
                self._seed()
                with restart_named(setup.request.out):
                    result = self.step(group)
                state.updates += 1
                self._add(result)
                state.seconds += time.monotonic() - begin
                begin = time.monotonic()
                if self.folder and self.step.step == 1:
                    self.folder.write(TRAINED, trained_png(group[0], setup.train, setup.config))
                show(state.updates * images, result.total, peak_bytes(self.step.device))
                is_due = time.monotonic() - self._saved > SAVE_SECONDS
                ends, saves = self._agreed(self.interruption.wanted, is_due)
                if ends or saves:
                    self._save_state()
                if ends:
                    raise self._interrupted()

    def _interrupted(self) -> TrainingError:
        setup = self.setup
        return TrainingError(
            f"interrupted after update {self.step.step}, in epoch {self.state.epoch + 1} of {setup.recipe.epochs}; run "
            f"effdet-train --resume --out {setup.request.out} to continue"
        )

    def _end_if_wanted(self, *_: int) -> None:
        """End between two images of a validation: the state has been saved before."""
        if self.interruption.wanted:
            raise self._interrupted()

    def _agreed(self, *wishes: bool) -> list[bool]:
        """Return what any process wants: they get a signal between different updates, and must stop after the same."""
        return self.setup.processes.sum(torch.tensor(wishes, dtype=torch.int64)).bool().tolist()

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
        number = state.epoch + 1
        is_validated = number % setup.recipe.val_every == 0 or number == setup.recipe.epochs
        if is_validated:
            self._save_state()  # a validation may take long
        else:
            self._average_statistics()
        begin = time.monotonic()
        found = self._validated() if is_validated else {}
        result = self._result(number, found, time.monotonic() - begin)
        if self.folder:
            improved = result.score > state.best.get("AP", -1.0) if found else False
            self._save_models(result, improved)
            if found:
                self.folder.write(FOUND, found_png(setup.val, next(iter(found.values())).results))
            if improved:
                state.best, state.stale = {"AP": result.score, "epoch": number}, 0
            elif found:
                state.stale += 1
            texts = list(advice(self.folder.results.epochs, result))
            for text in texts:
                self.folder.note(text)
            self.folder.record(result)
            self.progress.tell(result)
            if texts:
                tell(*texts)
        state.stale, state.best = setup.processes.broadcast((state.stale, state.best))
        state.epoch, state.updates, state.sums, state.seconds = number, 0, {}, 0.0
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
            with values, divergence_reported(copy, setup.request.out):
                result = validate(
                    setup.model, setup.val, setup.processes, workers=setup.workers, progress=self._end_if_wanted
                )
            if result is not None:
                found[copy] = result
        return found

    def _result(self, number: int, found: Mapping[str, Validation], validation_seconds: float) -> EpochResult:
        sums = self.state.sums
        count = sums.get("updates", 0.0)
        return EpochResult(
            epoch=number,
            step=self.step.step,
            seconds=self.state.seconds,
            images=int(count) * self.setup.images_per_update,
            losses={name: sums[name] / count for name in LOSSES},
            lr=sums["lr"],
            gradient_norm=sums["gradient_norm"] / count,
            metrics={copy: dict(validation.boxes.metrics) for copy, validation in found.items()},
            per_class={
                copy: {row.name: row.metrics["AP"] for row in validation.classes} for copy, validation in found.items()
            },
            validation_seconds=validation_seconds,
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

    def _average_statistics(self) -> None:
        """Let the statistics of all processes count in what is saved; called in all of them."""
        for _, values in self._copies():
            with values:
                average_statistics(self.setup.model, self.setup.processes)

    def _save_state(self) -> None:
        """Write the state; called in all processes."""
        self._average_statistics()
        if self.is_first:
            self.state.model, self.state.step = self.setup.model.state_dict(), self.step.state_dict()
            save_state(self.state, self.setup.request.out)
        self._saved = time.monotonic()
