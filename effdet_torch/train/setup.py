"""From what was asked for to everything that a training needs: data, classes, model, batches, updates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from effdet_torch.config import EfficientDetConfig
from effdet_torch.data.classes import classes_of
from effdet_torch.data.dataset import DataSet
from effdet_torch.data.files import check_images
from effdet_torch.data.splits import train_and_val
from effdet_torch.errors import UsageError
from effdet_torch.inference.labels import own_names
from effdet_torch.inference.runtime import usable_device
from effdet_torch.network.model import EfficientDet
from effdet_torch.processes import Processes
from effdet_torch.train.checks import check_training
from effdet_torch.train.input.loader import TrainLoader
from effdet_torch.train.norms import prepare_norms
from effdet_torch.train.objective import DetectionLoss, TargetAssigner
from effdet_torch.train.recipe import Recipe
from effdet_torch.train.request import TrainRequest
from effdet_torch.train.start import Classes, OpenSource, Start, read_source, start_from
from effdet_torch.train.state import TrainState
from effdet_torch.train.step import TrainStep
from effdet_torch.train.updates.schedule import make_schedule

OFFICIAL = "official"


@dataclass(frozen=True)
class Setup:
    """A training before its first update, or where it was interrupted.

    Attributes:
        request: what was asked for.
        recipe: with `batch` and `image_size` as they are used.
        train, val: the images; category ids are the labels.
        model: on its device, with batch norms as the recipe asks for.
        loader: the batches of this process.
        step: one update.
        origin: see `TrainState`.
        notes: what was assumed, repaired and drawn at random.
    """

    request: TrainRequest
    recipe: Recipe
    train: DataSet
    val: DataSet
    model: EfficientDet
    loader: TrainLoader
    step: TrainStep
    origin: Mapping[str, Any]
    processes: Processes
    notes: tuple[str, ...]

    @property
    def config(self) -> EfficientDetConfig:
        """Of the model."""
        return self.model.config

    @property
    def images_per_update(self) -> int:
        """Images that one update sees, in all processes."""
        return self.recipe.batch * self.recipe.grad_accum * self.processes.count

    def first_update(self, epoch: int) -> int:
        """Return the number of the first update of an epoch; batches run across the ends of epochs, as in main.py."""
        return epoch * len(self.train.images) // self.images_per_update


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
    source = _resumed(state) if state else read_source(request, is_official, open_source)
    train, val, notes = train_and_val(request.data, request.val_split, seed=request.recipe.seed)
    known = (source.names, source.config.num_classes) if state is None else _known(state)
    classes, train, val = classes_of(train, val, *known, keep_ids=is_official)
