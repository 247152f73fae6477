"""Failures of a training in the words of a training: where the causes are known, and what helps."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from effdet_torch.errors import EvaluationError, NonFiniteOutputError, TrainingError
from effdet_torch.train.run.place import restart

NO_MEMORY = ("out of memory", "can't allocate memory")  # how PyTorch's errors say it, on a GPU and on a CPU


@contextmanager
def full_memory_reported() -> Iterator[None]:
    """Report that tensors do not fit into the memory.

    Raises:
        TrainingError: They do not.
    """
    try:
        yield
    except RuntimeError as error:
        if not any(text in str(error) for text in NO_MEMORY):
            raise
        raise TrainingError(
            "the memory is full: pass a smaller --batch (with --grad-accum for as many images per update), a smaller "
            "--image-size, or --amp"
        ) from error


@contextmanager
def restart_named(out: Path) -> Iterator[None]:
    """Add to the error of an update what the training can start again from.

    Args:
        out: the run folder.

    Raises:
        TrainingError: The update failed.
    """
    try:
        yield
    except TrainingError as error:
        raise TrainingError(f"{error}; {restart(out)}") from error


@contextmanager
def divergence_reported(copy: str, out: Path) -> Iterator[None]:
    """Report detections that are not numbers: in a training they come from weights that have grown without end.

    Args:
        copy: of the weights that are validated.
        out: the run folder.

    Raises:
        TrainingError: There are such detections.
    """
    try:
        with np.errstate(over="ignore", invalid="ignore"):  # of boxes that are about to become infinite
            yield
    except (EvaluationError, NonFiniteOutputError) as error:
        raise TrainingError(
            f"the training has diverged: the {copy} weights give boxes or scores that are not finite. Pass a lower "
            f"--lr or more --warmup-epochs; {restart(out)}"
        ) from error
