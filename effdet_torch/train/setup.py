"""From what was asked for to everything that a training needs: data, classes, model, batches, updates."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from effdet_torch.config import EfficientDetConfig
from effdet_torch.cores import usable_cores
from effdet_torch.data.dataset import DataSet
from effdet_torch.data.rules import Note
from effdet_torch.data.training.class_map import ClassMap, classes_of
from effdet_torch.data.training.splits import train_and_val
from effdet_torch.data.training.statistics import training_notes
from effdet_torch.engines.torch_engine import usable_device
from effdet_torch.errors import UsageError
from effdet_torch.network.model import EfficientDet
from effdet_torch.processes import ALONE, Processes
from effdet_torch.train.input.augment import ordered
from effdet_torch.train.input.loader import Batch, TrainLoader
from effdet_torch.train.monitor.checks import check_batch_norms, check_rate
from effdet_torch.train.monitor.memory import batch_for
from effdet_torch.train.objective import DetectionLoss, TargetAssigner
from effdet_torch.train.recipe import DEFAULT, Recipe
from effdet_torch.train.request import OpenSource, TrainRequest
from effdet_torch.train.run.settings import versions
from effdet_torch.train.start import Start, read_source, resumed_source, start_from
from effdet_torch.train.state import TrainState
from effdet_torch.train.step import TrainStep
from effdet_torch.train.updates.schedule import make_schedule

OFFICIAL = "official"
MOST_WORKERS = 8


@dataclass(frozen=True)
class Setup:
    """A training before its first update, or where it was interrupted.

    Attributes:
        request: what was asked for; with the batch that "auto" found.
        recipe: with the batch that is used.
        train: the images to train on; category ids are the labels.
        val: the images for validation.
        model: on its device, with batch norms as the recipe asks for.
        loader: the batches of this process.
        step: one update.
        workers: processes that read images.
        processes: that train together.
        origin: what a resumed run takes instead of the source.
        facts: sections of settings.yaml.
        start_notes: what the training starts from, and what was drawn at random.
        data_notes: what was repaired, dropped and assumed about the data.
        warnings: what works badly.
    """

    request: TrainRequest
    recipe: Recipe
    train: DataSet
    val: DataSet
    model: EfficientDet
    loader: TrainLoader
    step: TrainStep
    workers: int
    processes: Processes
    origin: Mapping[str, Any]
    facts: Mapping[str, Any]
    start_notes: tuple[str, ...]
    data_notes: tuple[Note, ...]
    warnings: tuple[str, ...]

    @property
    def notes(self) -> tuple[str, ...]:
        """Everything that should be known, in words."""
        return *self.start_notes, *(note.sentence for note in self.data_notes), *self.warnings

    @property
    def config(self) -> EfficientDetConfig:
        """Of the model."""
        return self.model.config

    @property
    def images_per_update(self) -> int:
        """Images that one update sees, in all processes."""
        return _per_update(self.recipe, self.processes)

    def first_update(self, epoch: int) -> int:
        """Return the number of the first update of an epoch; batches run across the ends of epochs, as in main.py."""
        return epoch * len(self.train.images) // self.images_per_update

    @property
    def provenance(self) -> dict[str, Any]:
        """What the metadata of every trained model say."""
        settings = {
            name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self.recipe).items()
        }
        origin = {"from": Path(self.facts["from"]).name}  # a file that is passed on must not tell whose computer it was
        return {
            "recipe": self.request.recipe_name,
            "settings": settings,
            **self.facts,
            **origin,
            "versions": versions(),
        }


def set_up(
    request: TrainRequest, processes: Processes, open_source: OpenSource | None, state: TrainState | None = None
) -> Setup:
    """Read the data, build the model and everything around it.

    Args:
        request: what was asked for.
        processes: that train together.
        open_source: see `read_source`.
        state: of the run that is resumed; the source is not read again.

    Raises:
        EffdetError: Something cannot be read, or does not fit.
    """
    is_official = request.recipe_name == OFFICIAL
    augment = ordered(request.recipe.augment, is_official)
    source = read_source(request, is_official, open_source) if state is None else resumed_source(state.origin)
    train, val, notes = train_and_val(request.data, request.val_split, seed=request.recipe.seed)
    classes = classes_of(train, val, source.names, source.config.num_classes, keep_ids=is_official)
    origin = {**source.origin, **_splits(classes), "processes": processes.count}
    _require_same_run(origin if state is None else state.origin, origin)
    start = start_from(source, classes, request.image_size, request.recipe)
    device = usable_device(device_name(request), processes.local_rank if processes.count > 1 else None)
    model = start.model.to(device)
    if request.batch_auto:  # a resumed run must have the batch that was found
        batch = _largest_batch(model, request.recipe, device, processes)
        request = replace(request, recipe=replace(request.recipe, batch=batch))
    recipe, batch_note = _with_batch(replace(request.recipe, augment=augment), len(classes.train.images), processes)
    per_update = _per_update(recipe, processes)
    remarks = (batch_note, check_batch_norms(recipe, model.config, processes), *check_rate(recipe, per_update))
    workers = _workers(processes) if request.workers is None else request.workers
    pinned, assigner = device.type == "cuda", TargetAssigner(model.config)
    loader = TrainLoader(
        classes.train, model.config, recipe, assigner, workers=workers, processes=processes, pin_memory=pinned
    )
    step = _step(model, recipe, start, len(classes.train.images), processes)
    if state is not None:
        model.load_state_dict(state.model)
        step.load_state_dict(state.step)
    used = {**_used(recipe, model.config, per_update), "device": str(device), "workers": workers}
    facts = {"used": used, "classes": dict(classes.label_map), "from": source.name, **_splits(classes)}
    about_data = (*notes, *classes.notes, *train.notes, *val.notes)
    about_data += training_notes(classes.train, model.config.image_size)
    return Setup(
        request,
        recipe,
        classes.train,
        classes.val,
        model,
        loader,
        step,
        workers,
        processes,
        origin,
        facts,
        start_notes=() if state else (*start.notes, *differences(request)),
        data_notes=tuple(dict.fromkeys(about_data)),
        warnings=tuple(filter(None, remarks)),
    )


def device_name(request: TrainRequest) -> str:
    """Return the device that was asked for: by default the GPU if there is one."""
    return request.device or ("cuda" if torch.cuda.is_available() else "cpu")


def differences(request: TrainRequest) -> list[str]:
    """Return in words where the default recipe differs from the official one, unless options chose otherwise."""
    rows = {name: row for name, row in DEFAULT.items() if getattr(request.recipe, name) == row.value}
    if request.recipe_name == OFFICIAL or not rows:
        return []
    texts = ", ".join(f"{name} {row.value}" for name, row in rows.items())
    return [f"the default recipe differs from the official one: {texts}; docs/training.md says why"]


def _per_update(recipe: Recipe, processes: Processes) -> int:
    return recipe.batch * recipe.grad_accum * processes.count


def _step(model: EfficientDet, recipe: Recipe, start: Start, images: int, processes: Processes) -> TrainStep:
    per_update = _per_update(recipe, processes)
    schedule = make_schedule(recipe, per_update, images / per_update)
    loss = DetectionLoss(recipe, model.config)
    return TrainStep(model, recipe, schedule, loss, processes, averages=start.averages)


def _largest_batch(model: EfficientDet, recipe: Recipe, device: torch.device, processes: Processes) -> int:
    """Return the largest batch with which a step of a copy of the model fits, in the process with the least memory."""
    config = model.config

    def attempt(count: int) -> None:
        targets = TargetAssigner(config)([torch.zeros(0, 4)] * count, [torch.zeros(0, dtype=torch.int64)] * count)
        batch = Batch(torch.zeros(count, 3, *config.image_size), targets, [], [], [])
        trial = Start(deepcopy(model), None, ())
        _step(trial.model, replace(recipe, batch=count, grad_accum=1), trial, count, ALONE)([batch])

    found = torch.tensor(batch_for(device, attempt), device=device)
    return min(int(batch) for batch in processes.all(found))


def _used(recipe: Recipe, config: EfficientDetConfig, per_update: int) -> dict[str, Any]:
    """Return what was chosen where options leave it open."""
    return {
        "lr": recipe.top_rate(per_update),
        "images per update": per_update,
        "image_size": list(config.image_size),
        "model": config.name,
    }


def _with_batch(recipe: Recipe, images: int, processes: Processes) -> tuple[Recipe, str | None]:
    """Return the recipe with at most as many images per update as there are, and what was changed."""
    most = images // (processes.count * recipe.grad_accum)
    if recipe.batch <= most:
        return recipe, None
    if most == 0:
        raise UsageError(
            f"there are {images} training images, fewer than {processes.count} processes x {recipe.grad_accum} forward "
            "passes; use fewer processes, or a smaller --grad-accum"
        )
    return replace(recipe, batch=most), f"batch {most} instead of {recipe.batch}: number of training images: {images}"


def _workers(processes: Processes) -> int:
    return min(MOST_WORKERS, max(1, usable_cores() // processes.count - 1))


def _splits(classes: ClassMap) -> dict[str, Any]:
    sides = {"train": classes.train, "val": classes.val}
    return {
        "splits": {
            name: {"name": data.name, "images": len(data.images), "objects": len(data.objects), "sha256": data.checksum}
            for name, data in sides.items()
        }
    }


def _require_same_run(before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuse other data, and another number of images per update."""
    if before["splits"] != now["splits"]:
        raise UsageError(
            f"the data are not those of the run: {before['splits']} became {now['splits']}; resume with the "
            "same data, or start a new run with --from"
        )
    if before["processes"] != now["processes"]:
        raise UsageError(
            f"the run was trained in {before['processes']} processes, this is one of {now['processes']}: batches and "
            "learning rates would change; resume with as many, or start a new run with --from"
        )
